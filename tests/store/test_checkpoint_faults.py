"""Killed writers, damaged files, full disks: what is listed is whole, and what is damaged is never believed."""

import contextlib
import errno
import gc
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from llm_jax.core.table import UserError
from llm_jax.store import commit, files, verify
from llm_jax.store.checkpoint import Checkpoints
from llm_jax.store.manifest import CorruptCheckpointError, Manifest
from llm_jax.store.retention import Keep

ROOT = pathlib.Path(__file__).parents[2]
# Where a file is damaged, orbax's readers of the other arrays are abandoned and complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collect_abandoned_readers():
    yield
    gc.collect()


def state(step, size=1000):
    return {
        "w": np.random.default_rng(step).standard_normal(size).astype(np.float32),
        "b": jnp.arange(40, dtype=jnp.bfloat16) + step,
        "step": np.int32(step),
    }


FORM = state(0)


def equal(found, step, size=1000):
    return all(np.array_equal(found[name], leaf) for name, leaf in state(step, size).items())


@pytest.fixture
def store(tmp_path):
    """Three steps, 1 to 3."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step))
        checkpoints.wait()
        checkpoints.events.clear()
        yield checkpoints


def all_files(directory):
    return sorted(path for path in pathlib.Path(directory).rglob("*") if path.is_file() and path.name != "lock")


def test_every_flipped_bit_is_detected_or_harmless(store):
    outcomes = set()
    rng = random.Random(0)
    files = [path for path in all_files(store.directory / "3") if path.stat().st_size]
    for path in [rng.choice(files) for _ in range(30)] + [max(files, key=lambda p: p.stat().st_size)] * 20:
        intact = path.read_bytes()
        damaged = bytearray(intact)
        damaged[rng.randrange(len(intact))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            found, _ = store.restore(FORM, step=3)
            assert equal(found, 3), f"a flip in {path} went unseen"
            outcomes.add("harmless")
        except CorruptCheckpointError as error:
            assert "step 3" in str(error)
            outcomes.add("detected")
        path.write_bytes(intact)
    assert outcomes == {"detected", "harmless"}
    assert equal(store.restore(FORM, step=3)[0], 3)


def test_a_flipped_weight_is_traced_to_its_leaf(store):
    words = state(3)["w"].tobytes()
    path = next(path for path in all_files(store.directory / "3") if words in path.read_bytes())
    content = bytearray(path.read_bytes())
    content[content.find(words) + 17] ^= 4
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=r"step 3 .* the digest of w is not the one"):
        store.restore(FORM, step=3)


def test_a_missing_truncated_or_emptied_file_is_named(store):
    for path in all_files(store.directory / "3"):
        intact = path.read_bytes()
        for left in (None, intact[: len(intact) // 2], b""):
            path.unlink()
            if left is not None:
                path.write_bytes(left)
            with pytest.raises(CorruptCheckpointError, match=path.name):
                store.restore(FORM, step=3)
            path.write_bytes(intact)


@pytest.mark.parametrize("sizes_are_checked", [True, False])
def test_files_of_another_step_are_not_believed(store, monkeypatch, sizes_are_checked):
    if not sizes_are_checked:
        monkeypatch.setattr(verify, "_check_files", lambda *_: None)
    shutil.rmtree(store.directory / "3" / "arrays")
    shutil.copytree(store.directory / "2" / "arrays", store.directory / "3" / "arrays")
    with pytest.raises(CorruptCheckpointError):
        store.restore(FORM, step=3)


def damage(store, *steps):
    for step in steps:
        max(all_files(store.directory / str(step)), key=lambda p: p.stat().st_size).write_bytes(b"x" * 5000)


def test_the_newest_whole_step_is_taken_and_damaged_ones_are_moved_aside(store):
    damage(store, 2, 3)
    found, manifest = store.restore(FORM)
    assert equal(found, 1) and manifest.step == 1
    assert store.steps() == [1]
    assert [(e["event"], e["step"]) for e in store.events] == [("corrupt", 3), ("corrupt", 2)]
    assert [os.path.exists(e["moved_to"]) for e in store.events] == [True, True]
    assert sorted(name.split(".")[0] for name in os.listdir(store.directory / "corrupt")) == ["2", "3"]


def test_when_all_are_damaged_nothing_moves_and_the_error_stays(store):
    damage(store, 1, 2, 3)
    for _ in range(2):
        with pytest.raises(CorruptCheckpointError, match=r"no checkpoint in .* is whole"):
            store.restore(FORM)
        assert store.steps() == [1, 2, 3]


def test_a_step_without_its_manifest_is_damaged_not_absent(store):
    for step in (1, 2, 3):
        (store.directory / str(step) / "manifest.json").unlink()
    with pytest.raises(CorruptCheckpointError):
        store.restore(FORM)


def test_arrays_that_are_not_there_are_not_allocated(store, monkeypatch):
    from llm_jax.store import manifest

    path = store.directory / "3"
    saved = manifest.read(path)
    saved.leaves["w"] = manifest.Leaf((10**12,), "float32", 0)
    manifest.write(path, saved)
    with pytest.raises(CorruptCheckpointError, match="more than its files can hold"):
        store.restore(step=3)


def test_many_small_arrays_that_pack_well_are_believed(tmp_path):
    zeros = {f"a{i}": np.zeros(200, np.float32) for i in range(150)}
    with Checkpoints(tmp_path) as store:
        store.save(1, zeros)
        assert store.restore(zeros)[1].step == 1


def test_a_full_disk_fails_that_save_alone(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as store:
        store.save(1, state(1))
        store.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            store.save(2, state(2))
            store.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert store.events[-1]["event"] == "save_failed" and store.events[-1]["step"] == 2
        assert store.last_error is not None
        assert store.steps() == [1] and not list(tmp_path.glob("*.tmp"))
        store.save(3, state(3))
        store.wait()
        assert store.last_error is None
        assert equal(store.restore(FORM)[0], 3)


def test_a_step_stays_until_the_one_that_replaces_it_is_in_its_place(store, monkeypatch):
    remove, found = type(store.directory).rmtree, []

    def rmtree(path, **options):
        if path.name.startswith("3."):
            found.append(equal(Checkpoints(store.directory).restore(FORM, step=3)[0], 4))
        remove(path, **options)

    monkeypatch.setattr(type(store.directory), "rmtree", rmtree)
    store.save(3, state(4))
    store.wait()
    assert store.last_error is None and found == [True] and not list(store.directory.glob("*.tmp"))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("broken", ["write_json", "sync_tree"])
def test_a_process_whose_commit_fails_lets_the_others_go_on(rank, broken, tmp_path, monkeypatch):
    """They wait for it at barriers, for twenty minutes where it does not come."""
    met = []

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(commit.jax, "process_count", lambda: 2)
    monkeypatch.setattr(commit.jax, "process_index", lambda: rank)
    monkeypatch.setattr(commit.processes, "barrier", lambda name: met.append(name.split()[0]))
    monkeypatch.setattr(commit.files, broken, full)
    work = epath.Path(tmp_path / "1.tmp")
    work.mkdir()
    (tmp_path / "1.tmp" / f"digests.{1 - rank}.json").write_text("{}")
    with contextlib.suppress(OSError):
        commit.commit(work, Manifest(step=1, leaves={}), {})
    assert met == ["digests", "committed"]


def test_on_an_object_store_a_step_without_its_last_file_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "is_local", lambda path: False)
    with Checkpoints(tmp_path, Keep(last=2)) as store:
        for step in (1, 2, 2):
            store.save(step, state(step))
        store.wait()
        assert store.last_error is None and store.steps() == [1, 2] and equal(store.restore(FORM)[0], 2)
        remove = type(store.directory).rmtree

        def killed(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(type(store.directory), "rmtree", killed)
        for doomed in (
            lambda: commit.make_room(store.directory, Keep(last=1)),
            lambda: commit.prepare(store.directory, 2),
        ):
            with pytest.raises(KeyboardInterrupt):
                doomed()
        monkeypatch.setattr(type(store.directory), "rmtree", remove)
        assert (tmp_path / "1").exists() and store.steps() == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT])
def test_trouble_of_this_machine_is_not_taken_for_damage(number, store, monkeypatch):
    def trouble(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(verify.manifest, "read", trouble)
    with pytest.raises(OSError, match=os.strerror(number)):
        store.restore(FORM)
    monkeypatch.undo()
    assert store.steps() == [1, 2, 3] and equal(store.restore(FORM)[0], 3)


def test_a_directory_that_cannot_be_made_fails_the_save_and_not_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with Checkpoints(tmp_path / "file" / "checkpoints") as store:
        store.save(1, state(1))
        assert [e["event"] for e in store.events] == ["save_failed"]
        assert isinstance(store.last_error, OSError)


WRITER = """
import sys, numpy as np
sys.path.insert(0, "tests/store")
from test_checkpoint_faults import state
from llm_jax.store.checkpoint import Checkpoints, Keep
with Checkpoints(sys.argv[1], Keep(last=2)) as store:
    for step in range(store.latest() or 0, 10_000):
        store.save(step + 1, state(step + 1, 500_000))
        print(step + 1, flush=True)
"""


@contextlib.contextmanager
def writer(directory):
    """A job that saves step after step and prints each when its save has begun; killed at the end."""
    command = [sys.executable, "-c", WRITER, directory]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as job:
        try:
            yield job
        finally:
            job.send_signal(signal.SIGKILL)


def test_what_a_killed_job_leaves_is_whole_and_the_next_one_cleans_up(tmp_path):
    rng = random.Random()
    for _ in range(3):
        with writer(tmp_path) as job:
            assert job.stdout.readline() and job.stdout.readline()  # one save is done
            time.sleep(rng.uniform(0, 0.3))
        with Checkpoints(tmp_path) as reader:
            found, manifest = reader.restore(state(0, 500_000))
            assert manifest.step == reader.latest()
            assert equal(found, manifest.step, 500_000)
    with Checkpoints(tmp_path, Keep(last=2)) as store:
        store.save(10_000, state(1))
        store.wait()
        assert not list(tmp_path.glob("*.tmp"))
        assert not (tmp_path / "corrupt").exists()
        assert len(store.steps()) == 2


def test_a_second_job_is_refused_and_disturbs_nothing(tmp_path):
    with writer(tmp_path) as job:
        assert job.stdout.readline()
        with Checkpoints(tmp_path) as second:
            with pytest.raises(UserError, match=rf"in use by another job \(process {job.pid} "):
                second.save(1, state(1))
            for _ in range(3):
                assert job.stdout.readline()
            found, manifest = second.restore(state(0, 500_000))  # reading is free
            assert equal(found, manifest.step, 500_000)
