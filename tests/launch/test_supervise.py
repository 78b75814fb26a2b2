"""Ranks on this machine, as small programs of a shell: what one of them does, and what becomes of all."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from llm_jax.core.table import UserError
from llm_jax.launch import execute
from llm_jax.launch import supervise as supervision
from llm_jax.launch.execute import Patience
from llm_jax.launch.job import Command
from llm_jax.launch.supervise import supervise
from llm_jax.store import files

# jax warns of every fork in a process that has computed, as this one has by other tests; the launcher never computes.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
SWIFT = Patience(first=0.01, longest=0.02)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(supervision, "LAST_WORDS", 0.2)


def outcome(folder, *scripts, restarts=2, signals=()):
    """Supervise a shell script for each rank; return the code, and what was said."""
    said: list[str] = []

    def commands(port):
        env = (("FOLDER", str(folder)), ("PORT", port))
        return [Command(("sh", "-c", script), "test", env=env) for script in scripts]

    def send():
        for number in signals:
            for _ in range(1000):
                if (folder / "ready").exists():
                    break
                time.sleep(0.01)
            (folder / "ready").unlink()
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    code = supervise(commands, str(folder / "run"), restarts, SWIFT, said.append)
    thread.join()
    return code, said


WAIT = "touch $FOLDER/ready; i=0; while [ $i -lt 200 ]; do sleep 0.05; i=$((i + 1)); done; exit 9"


def test_all_ranks_that_end_well_end_the_launcher_well(tmp_path):
    assert outcome(tmp_path, "exit 0", "exit 0") == (0, [])


@pytest.mark.parametrize("death", ["exit 1", "kill -9 $$", "kill -ABRT $$"])
@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_dies_ends_the_others_and_all_start_again_until_it_goes_well(victim, death, tmp_path):
    again = f"[ -f $FOLDER/once ] && exit 0; touch $FOLDER/once; {death}"
    other = "[ -f $FOLDER/second ] && exit 0; touch $FOLDER/second; exec sleep 1000"
    scripts = [again, other] if victim == 0 else [other, again]
    before = time.monotonic()
    code, said = outcome(tmp_path, *scripts)
    assert code == 0 and len(said) == 1 and "all start again from the last checkpoint" in said[0]
    assert time.monotonic() - before < 8


def test_so_often_and_no_more(tmp_path):
    code, said = outcome(tmp_path, "echo x >> $FOLDER/starts; exit 134", restarts=3)
    assert code == 1 and (tmp_path / "starts").read_text().count("x") == 4
    assert said[-1] == "rank 0 ended with 134; that was the last of 3 restarts"


@pytest.mark.parametrize("victim", [0, 1])
def test_the_rank_that_died_first_is_named_with_its_signal_and_the_way_out(victim, tmp_path):
    loss = "while [ ! -f $FOLDER/dead ]; do sleep 0.01; done; sleep 0.1; exit 1"
    scripts = [loss, loss]
    scripts[victim] = "touch $FOLDER/dead; kill -9 $$"
    code, (said,) = outcome(tmp_path, *scripts, restarts=0)
    assert code == 1 and said.startswith(f"rank {victim} was ended by signal 9 (Killed); ")
    assert "for want of memory: give fewer --ranks" in said
    code, (said,) = outcome(tmp_path, "sleep 5", "kill -ABRT $$", restarts=0)
    assert code == 1 and said == "rank 1 was ended by signal 6 (Aborted)"


@pytest.mark.parametrize(("first", "second", "code"), [(2, 1, 2), (1, 2, 2), (2, 2, 2), (75, 75, 75), (0, 75, 75)])
def test_what_another_start_would_not_mend_is_not_started_again(first, second, code, tmp_path):
    assert outcome(tmp_path, f"exit {first}", f"exit {second}") == (code, [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_rank_as_sigterm_and_their_75_is_passed_on(number, tmp_path):
    first = (
        "trap 'echo saved >> $FOLDER/saved; exit 75' TERM; while [ ! -f $FOLDER/there ]; do sleep 0.02; done; " + WAIT
    )
    second = "trap 'sleep 0.3; echo saved >> $FOLDER/saved; exit 75' TERM; touch $FOLDER/there; " + WAIT
    assert outcome(tmp_path, first, second.replace("$FOLDER/ready", "$FOLDER/there"), signals=[number]) == (75, [])
    assert (tmp_path / "saved").read_text() == "saved\n" * 2


def test_a_second_signal_ends_all_at_once(tmp_path):
    stubborn = "trap 'touch $FOLDER/ready' TERM; " + WAIT
    code, _ = outcome(tmp_path, stubborn, signals=[signal.SIGTERM, signal.SIGTERM])
    assert code == 130


def test_a_signal_that_comes_while_ranks_are_started_reaches_them(tmp_path, monkeypatch):
    start = execute.start

    def slow(*given, **more):
        rank = start(*given, **more)
        while not (tmp_path / "trapped").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        return rank

    monkeypatch.setattr(execute, "start", slow)
    assert outcome(tmp_path, "trap 'touch $FOLDER/saved; exit 75' TERM; touch $FOLDER/trapped; " + WAIT) == (75, [])
    assert (tmp_path / "saved").exists()


def test_a_signal_between_two_starts_is_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(supervision._Signals, "sleep", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    code, _ = outcome(tmp_path, "echo x >> $FOLDER/starts; exit 1")
    assert code == 75 and (tmp_path / "starts").read_text() == "x\n"


def test_a_workdir_has_one_launcher_at_a_time(tmp_path):
    from etils import epath

    (tmp_path / "run").mkdir()
    with files.lock(epath.Path(tmp_path / "run")), pytest.raises(UserError, match="it runs already"):
        outcome(tmp_path, "exit 0")
    assert outcome(tmp_path, "exit 0")[0] == 0


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_workdir_that_cannot_be_made_is_the_users_to_name_anew(place, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"--workdir=.*{place} cannot be used: .*; name another"):
        supervise(lambda port: [], str(tmp_path / place), 0, SWIFT, print)


def test_ranks_are_told_to_save_when_their_launcher_is_killed(tmp_path):
    rank = f"trap 'touch {tmp_path}/saved; exit 75' TERM; echo ready; " + WAIT.replace("$FOLDER", str(tmp_path))
    code = (
        "from llm_jax.launch.supervise import supervise; from llm_jax.launch.execute import Patience\n"
        "from llm_jax.launch.job import Command\n"
        f"rank = Command(('sh', '-c', {rank!r}), 'x')\n"
        f"supervise(lambda port: [rank], {str(tmp_path / 'run')!r}, 0, Patience(), print)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout.readline() == "ready\n"
        launcher.kill()
    until = time.monotonic() + 5
    while not (tmp_path / "saved").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert (tmp_path / "saved").exists()
