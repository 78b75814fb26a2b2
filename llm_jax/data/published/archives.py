"""Archives of packages by their own clients: pip, npm and apt-get; nothing is installed.

Of a source distribution pip asks its setup for its name, after the hash of the archive has been checked.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llm_jax.core.table import UserError

LISTS = "apt"  # folder of the lists
HELPER = "/usr/lib/apt/apt-helper"


def sdist(package: str, sha256: str | None, folder: Path) -> Path:
    """Return the source archive of a Python package, in a folder."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{package} --hash=sha256:{sha256}\n")
    into = folder / "got"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=:all:", "--disable-pip-version-check"]
    run([*pip, "--quiet", "--require-hashes", "--dest", str(into), "-r", str(wanted)], package)
    return only(into, package)


def npm(package: str, sha256: str | None, folder: Path) -> Path:
    """Return the archive of a package of npm, in a folder."""
    run(["npm", "pack", "--ignore-scripts", "--pack-destination", str(folder), package], package)
    archive = only(folder, package)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        raise UserError(
            f"{archive.name} has sha256 {found}, and {sha256} was published; it is not used. "
            "Ask whoever runs your package index"
        )
    return archive


def apt(package: str, sha256: str | None, folder: Path) -> Path:
    """Return a folder with the English lists of this machine's Debian, of the component `package`, as text.

    The machine's own lists stay as they are.
    """
    lists, cache, plain = folder / "lists", folder / "cache", folder / LISTS
    for made in (lists / "partial", cache / "archives/partial", plain):
        made.mkdir(parents=True)
    options = [f"Dir::State::Lists={lists}", f"Dir::Cache={cache}", "APT::Sandbox::User=root", "Acquire::Languages=en"]
    run(["apt-get", "update", "-qq", *(word for option in options for word in ("-o", option))], "the lists of Debian")
    for path in sorted(lists.glob(f"*_{package}_*")):
        if path.is_file():
            text = run([HELPER, "cat-file", str(path)], path.name)
            (plain / path.name).write_bytes(text)
    return plain


def deb(package: str, sha256: str | None, folder: Path) -> Path:
    """Return a folder with the files of packages of this machine's Debian or Ubuntu, names with spaces between."""
    got, unpacked = folder / "got", folder / "unpacked"
    got.mkdir()
    run(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *package.split()], package, got)
    for path in sorted(got.glob("*.deb")):
        run(["dpkg-deb", "-x", str(path), str(unpacked)], path.name)
    return unpacked


BY: dict[str, Callable[[str, str | None, Path], Path]] = {"sdist": sdist, "npm": npm, "apt": apt, "deb": deb}


def run(command: Sequence[str], what: str, where: Path | None = None) -> bytes:
    """Return what a program writes that is run in a folder.

    Raises:
        UserError: it is not there, or fails; its last words.
    """
    program = shutil.which(command[0])
    if program is None:
        raise UserError(f"{what} needs {command[0]}, which is not here; fetch it on a machine that has it, and copy "
                        "its folder `fetched` of the cache ($LLM_JAX_CACHE) to this one")  # fmt: skip
    done = subprocess.run([program, *command[1:]], capture_output=True, cwd=where)
    if done.returncode:
        reason = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{command[0]} could not get {what}: {reason}")
    return done.stdout


def only(folder: Path, what: str) -> Path:
    """Return the one archive in a folder."""
    found = [path for path in sorted(folder.iterdir()) if path.name.endswith((".tar.gz", ".tgz", ".zip"))]
    if len(found) != 1:
        raise UserError(f"{what}: one archive was expected, and there are {len(found)}")
    return found[0]
