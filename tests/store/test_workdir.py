"""Files of a workdir: whole or absent, readable after a kill, held by one job."""

import json
import os
import pathlib
import resource
import subprocess
import sys

import pytest
from etils import epath

from llm_jax.core.table import UserError
from llm_jax.store import files
from llm_jax.store.workdir import Workdir, append_event, existing


def test_a_workdir_names_its_files(tmp_path):
    workdir = Workdir(tmp_path)
    assert (workdir.config, workdir.checkpoints) == (tmp_path / "config.json", tmp_path / "checkpoints")
    assert os.listdir(tmp_path) == []


def test_a_missing_workdir_and_one_without_config_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="is not a directory"):
        existing(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no config\.json"):
        existing(tmp_path)
    files.write_json(epath.Path(tmp_path / "config.json"), {})
    assert existing(tmp_path) == Workdir(tmp_path)


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path, monkeypatch):
    path = epath.Path(tmp_path / "run.json")
    files.write_json(path, {"a": 0})
    with open(path) as reader:
        files.write_json(path, {"a": 1})
        assert json.load(reader) == {"a": 0}  # who was reading goes on with the old file
    for bad in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises((ValueError, TypeError)):
            files.write_json(path, bad)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1}}', b"[" * 100_000])
def test_a_damaged_json_file_is_the_users_to_mend(tmp_path, content):
    path = epath.Path(tmp_path / "config.json")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json"):
        files.read_json(path)


def test_events_are_lines_that_survive_a_torn_one(tmp_path):
    workdir = Workdir(tmp_path)
    assert append_event(workdir, "saved", step=1)
    with open(workdir.events, "a") as file:
        file.write('{"event": "sav')  # killed in the middle of a line
    assert append_event(workdir, "saved", step=2)
    assert [(e["event"], e["step"]) for e in files.read_lines(workdir.events)] == [("saved", 1), ("saved", 2)]
    assert files.read_lines(workdir.metrics) == []


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path):
    assert not append_event(Workdir(tmp_path / "absent"), "saved", step=1)


def test_a_line_of_which_the_disk_took_a_part_is_told_as_lost(tmp_path):
    workdir = Workdir(tmp_path)
    assert append_event(workdir, "saved", step=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (workdir.events.stat().length + 7, limits[1]))
    try:
        assert not append_event(workdir, "saved", step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert append_event(workdir, "saved", step=3)
    assert [e["step"] for e in files.read_lines(workdir.events)] == [1, 3]


@pytest.mark.parametrize("torn", ["17", "null", '"saved"', "[" * 100_000])
def test_what_is_no_object_is_no_line_of_a_log(torn, tmp_path):
    path = epath.Path(tmp_path / "events.jsonl")
    path.write_text(f'{torn}\n{{"step": 1}}\n')
    assert files.read_lines(path) == [{"step": 1}]


def test_the_size_of_every_file_below_a_directory_is_known(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"123")
    (tmp_path / "d").write_bytes(b"")
    assert files.sizes(epath.Path(tmp_path)) == {"a/b/c": 3, "d": 0}


HOLDER = """
import sys, time
from etils import epath
from llm_jax.store.files import lock
with lock(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_job_is_refused_until_the_first_one_dies(tmp_path):
    command = [sys.executable, "-c", HOLDER, tmp_path]
    root = pathlib.Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout and other.stdout.readline() == "held\n"
            with pytest.raises(UserError, match=rf"in use by another job \(process {other.pid} on"):
                files.lock(epath.Path(tmp_path))
        finally:
            other.kill()
    with files.lock(epath.Path(tmp_path)), pytest.raises(UserError, match="this very process"):
        files.lock(epath.Path(tmp_path))
    with files.lock(epath.Path(tmp_path)):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_relative_workdir_is_one_place_wherever_the_process_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Workdir("runs/first").path
    monkeypatch.chdir("/")
    assert path == epath.Path(tmp_path) / "runs" / "first"
