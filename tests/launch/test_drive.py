"""Jobs elsewhere from beginning to end, beside programs that fail, hang, half-succeed and change their minds."""

import itertools
import json
import os
import pathlib
import subprocess
import time

import pytest

from llm_jax.cli import launch, main
from llm_jax.launch import execute, slurm, tpu_vm
from llm_jax.launch.execute import Patience
from llm_jax.launch.job import Command, Job
from llm_jax.run import targets

FAKE = """#!/bin/sh
# The n-th call of `program verb` does what the file program-verb.n says, or the last one before it.
key=$(basename "$0")
case "$key" in
  kubectl) for word; do case "$word" in -*) ;; *) key=kubectl-$word; break ;; esac; done ;;
  gcloud) key=gcloud-$5 ;;
esac
n=$(( $(cat "$FAKE/$key.count" 2>/dev/null || echo 0) + 1 ))
echo "$n" > "$FAKE/$key.count"
echo "$key" >> "$FAKE/calls"
printf '%s\\0' "$@" > "$FAKE/$key.argv"
case "$key" in sbatch|kubectl-create) cat > "$FAKE/$key.stdin" ;; esac
while [ "$n" -gt 0 ] && [ ! -f "$FAKE/$key.$n" ]; do n=$((n - 1)); done
[ "$n" -gt 0 ] || exit 0
. "$FAKE/$key.$n"
"""
GONE, HANG = 'echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1', "sleep 1000"
SLURM = ["--on=slurm", "--partition=gpu", "--nodes=2", "--name=job"]
VM = ["--on=tpu_vm", "--project=project-1", "--zone=us-east5-b", "--topology=v5e:4x4", "--name=job"]
GKE = ["--on=gke", "--image=registry/image:1", "--topology=v5e:4x4", "--name=job"]


class Fakes:
    """Programs on PATH that answer as they are told."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("sbatch", "squeue", "sacct", "scancel", "kubectl", "gcloud"):
            (folder / name).write_text(FAKE)
            (folder / name).chmod(0o755)

    def answer(self, key, *snippets):
        """Say what each call does; the last stands for all further ones."""
        for n, snippet in enumerate(snippets, 1):
            (self.folder / f"{key}.{n}").write_text(snippet + "\n")

    def calls(self, key):
        return (self.folder / "calls").read_text().split().count(key)

    def order(self, *keys):
        return [c for c in (self.folder / "calls").read_text().split() if c in keys]


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setattr(launch, "PATIENCE", Patience(tries=3, first=0.01, longest=0.02, timeout=1.0, poll=0.05))
    return Fakes(tmp_path)


def started(*words):
    return main(["launch", "--config=configs/debug.py", "--workdir=gs://bucket/run", *words])


def state(word):
    return "echo '" + json.dumps({"state": {"state": word}}) + "'"


def jobset(condition=None, reason="", ready=1):
    conditions = [{"type": condition, "status": "True", "reason": reason}] if condition else []
    return (
        "echo '" + json.dumps({"status": {"conditions": conditions, "replicatedJobsStatus": [{"ready": ready}]}}) + "'"
    )


@pytest.mark.parametrize(
    ("account", "code"),
    [("COMPLETED|0:0", 0), ("FAILED|2:0", 2), ("FAILED|75:0", 75), ("FAILED|1:0", 1), ("PREEMPTED|0:15", 75)],
)
def test_a_slurm_job_is_submitted_once_and_ends_the_launcher_with_its_code(account, code, fakes):
    fakes.answer("squeue", "", "echo PENDING", "echo RUNNING", "echo RUNNING", "")
    fakes.answer("sacct", f"echo 'FAILED|1:0'; echo '{account}'")
    assert started(*SLURM) == code
    assert fakes.calls("sbatch") == 1
    assert (fakes.folder / "sbatch.stdin").read_text().startswith("#!/bin/bash\n#SBATCH --job-name=job")


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "PENDING", "REQUEUED"])
def test_a_slurm_job_whose_end_is_not_accounted_for_yet_is_asked_for_again(state, fakes):
    fakes.answer("squeue", "", "echo RUNNING", "echo RUNNING", "")
    fakes.answer("sacct", f"echo '{state}|0:0'", "echo 'COMPLETED|0:0'")
    assert started(*SLURM) == 0


def test_what_fails_at_first_is_tried_again_and_what_always_fails_is_told(fakes, capsys):
    fakes.answer("sbatch", "exit 1", "exit 1", "echo 7")
    fakes.answer("squeue", "", "", "", "echo RUNNING", "")
    fakes.answer("sacct", "exit 1", "echo nonsense", "echo 'COMPLETED|0:0'")
    assert started(*SLURM) == 0 and fakes.calls("sbatch") == 3
    fakes.answer("squeue", "", "", "", "", "")
    fakes.answer("sbatch", *["echo 'no such partition' >&2; exit 1"] * 4)
    assert started(*SLURM) == 2
    assert "could not submit it" in (said := capsys.readouterr().err) and "no such partition" in said


def test_a_submission_that_hung_after_it_had_succeeded_is_not_doubled(fakes):
    fakes.answer("sbatch", HANG)
    fakes.answer("squeue", "", "echo PENDING", "echo RUNNING", "")
    fakes.answer("sacct", "echo 'COMPLETED|0:0'")
    assert started(*SLURM) == 0 and fakes.calls("sbatch") == 1


@pytest.mark.parametrize("words", [SLURM, VM, GKE], ids=["slurm", "tpu_vm", "gke"])
def test_launching_a_job_that_is_there_attaches_to_it(words, fakes, capsys):
    fakes.answer("squeue", "echo RUNNING", "echo RUNNING", "")
    fakes.answer("sacct", "echo 'COMPLETED|0:0'")
    fakes.answer("kubectl-get", jobset(), jobset(), jobset("Completed"))
    fakes.answer("gcloud-describe", state("ACTIVE"))
    fakes.answer("gcloud-ssh", "", "echo 'llm_jax: exit 0'")
    assert started(*words) == 0
    assert "job is there already (running); attaching" in capsys.readouterr().out
    assert not fakes.order("sbatch", "kubectl-create", "gcloud-create")


@pytest.mark.parametrize("words", [SLURM, VM, GKE], ids=["slurm", "tpu_vm", "gke"])
def test_a_scheduler_that_never_answers_is_told_and_nothing_is_submitted(words, fakes, capsys):
    for key in ("squeue", "kubectl-get", "gcloud-describe"):
        fakes.answer(key, "echo 'permission denied' >&2; exit 1", "echo '<html>'; exit 3")
    assert started(*words) == 2
    assert "cannot learn how the job stands" in capsys.readouterr().err
    assert not fakes.order("sbatch", "kubectl-create", "gcloud-create", "gcloud-delete")


def test_a_job_set_is_created_followed_and_believed(fakes, capsys):
    fakes.answer("kubectl-get", "", "", jobset(ready=0), "echo '<html>'", jobset(), jobset(), jobset("Completed"))
    fakes.answer("kubectl-logs", "echo step 1; exit 1", "echo step 2; " + HANG)
    assert started(*GKE) == 0
    assert json.loads((fakes.folder / "kubectl-create.stdin").read_text())["kind"] == "JobSet"
    printed = capsys.readouterr().out
    assert "step 1" in printed and "job waits for its machines" in printed and fakes.calls("kubectl-create") == 1


@pytest.mark.parametrize(("reason", "code"), [("FailJobSetAction", 2), ("ReachedMaxRestarts", 1)])
def test_a_job_set_that_failed_says_whose_fault_it_was_and_makes_room_for_the_next(reason, code, fakes):
    fakes.answer("kubectl-get", jobset("Failed", reason), jobset(), jobset("Failed", reason))
    assert started(*GKE) == code
    assert fakes.order("kubectl-delete", "kubectl-create") == ["kubectl-delete", "kubectl-create"]


def test_a_job_set_that_was_created_though_the_answer_was_lost_is_not_created_again(fakes):
    fakes.answer("kubectl-create", "exit 1")
    fakes.answer("kubectl-get", "", jobset(), jobset(), jobset("Completed"))
    assert started(*GKE) == 0 and fakes.calls("kubectl-create") == 1


def test_chips_that_are_taken_away_are_queued_for_again_and_given_back_at_the_end(fakes, capsys):
    fakes.answer(
        "gcloud-describe", GONE, state("WAITING_FOR_RESOURCES"), state("ACTIVE"), state("SUSPENDED"),
        state("SUSPENDED"), state("PROVISIONING"), state("ACTIVE"),
    )  # fmt: skip
    fakes.answer("gcloud-ssh", "", "echo step 1; exit 255", "", "echo 'llm_jax: exit 0'; echo 'llm_jax: exit 0'")
    assert started(*VM) == 0
    steps = ["gcloud-create", "gcloud-scp", "gcloud-delete", "gcloud-create", "gcloud-scp", "gcloud-delete"]
    assert fakes.order("gcloud-create", "gcloud-delete", "gcloud-scp") == steps
    assert "stopped; submitting it again" in capsys.readouterr().out


def test_training_that_stops_is_started_again_on_the_same_chips_so_often_and_no_more(fakes):
    fakes.answer("gcloud-describe", GONE, state("ACTIVE"))
    fakes.answer("gcloud-ssh", *[s for _ in range(3) for s in ("", "echo 'llm_jax: exit 75'; exit 1")])
    assert started(*VM, "--restarts=2") == 75
    assert fakes.calls("gcloud-ssh") == 6 and fakes.order("gcloud-create", "gcloud-delete") == [
        "gcloud-create",
        "gcloud-delete",
    ]


def test_chips_that_somebody_gave_back_meanwhile_are_not_queued_for_again(fakes, capsys):
    fakes.answer("gcloud-describe", GONE, state("ACTIVE"), state("ACTIVE"), state("DELETING"), GONE)
    fakes.answer("gcloud-ssh", "", "echo 'llm_jax: exit 75'; exit 1")
    assert started(*VM) == 1
    assert fakes.calls("gcloud-create") == 1
    assert "job is gone: somebody ended it" in capsys.readouterr().out


def test_chips_that_could_not_be_had_are_a_failure(fakes):
    fakes.answer("gcloud-describe", GONE, state("FAILED"))
    assert started(*VM, "--restarts=0") == 1


def test_a_run_that_is_refused_on_its_hosts_is_not_started_again(fakes):
    fakes.answer("gcloud-describe", GONE, state("ACTIVE"))
    fakes.answer("gcloud-ssh", "", "echo 'llm_jax: exit 2'; echo 'llm_jax: exit 1'; exit 1")
    assert started(*VM) == 2
    assert fakes.calls("gcloud-create") == 1 and fakes.calls("gcloud-delete") == 1


def test_copying_to_half_of_the_hosts_is_repeated_and_a_lost_connection_taken_up_again(fakes):
    fakes.answer("gcloud-describe", GONE, state("ACTIVE"))
    fakes.answer("gcloud-scp", "echo 'worker 3: broken pipe' >&2; exit 1", "")
    fakes.answer("gcloud-ssh", "", "echo step 1; exit 255", "echo 'llm_jax: exit 0'")
    assert started(*VM) == 0
    assert fakes.calls("gcloud-scp") == 2 and fakes.calls("gcloud-create") == 1 and fakes.calls("gcloud-ssh") == 3


def test_machines_that_are_to_be_kept_are_kept(fakes):
    fakes.answer("gcloud-describe", state("ACTIVE"))
    fakes.answer("gcloud-ssh", "", "echo 'llm_jax: exit 0'")
    assert started(*VM, "--keep=True") == 0
    assert not fakes.order("gcloud-delete")


@pytest.mark.parametrize(
    ("words", "there", "last"),
    [
        (SLURM, ("squeue", "echo RUNNING"), "scancel"),
        (GKE, ("kubectl-get", jobset()), "kubectl-delete"),
        (VM, ("gcloud-describe", state("ACTIVE")), "gcloud-delete"),
    ],
    ids=["slurm", "gke", "tpu_vm"],
)
def test_stop_ends_a_job_and_is_content_when_there_is_none(words, there, last, fakes, capsys):
    fakes.answer("gcloud-ssh", "exit 255")
    fakes.answer(*there)
    assert started(*words, "--stop") == 0 and fakes.calls(last) == 1
    fakes.answer(there[0], *[there[1]] * 1, GONE if words is VM else "")
    assert started(*words, "--stop") == 0 and fakes.calls(last) == 1
    assert "job is not there" in capsys.readouterr().out


def test_leaving_leaves_the_job_and_says_how_to_come_back(fakes, capsys, monkeypatch):
    fakes.answer("squeue", "echo RUNNING")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(execute.Stream, "wait", interrupt)
    assert started(*SLURM) == 130
    assert "attaches to it again" in capsys.readouterr().out and not fakes.order("scancel")


def test_a_program_that_is_not_installed_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert started(*SLURM) == 2
    assert "squeue is not installed here" in capsys.readouterr().err


def test_pauses_grow_up_to_the_longest_and_never_end():
    pauses = list(itertools.islice(Patience(first=2.0, longest=60.0).pauses(), 2000))
    assert pauses[:6] == [2, 4, 8, 16, 32, 60] and set(pauses[6:]) == {60}


def test_what_a_program_says_may_be_in_any_encoding():
    result = execute.run(Command(("sh", "-c", r"printf 'caf\351'; printf '\377' >&2"), "x"), Patience())
    assert (result.code, result.out, result.err) == (0, "caf\ufffd", "\ufffd")


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    before, child = time.monotonic(), tmp_path / "child"
    command = Command(("sh", "-c", f"sleep 1000 & echo $! > {child}; wait"), "x")
    result = execute.run(command, Patience(timeout=0.2))
    assert result.code is None and time.monotonic() - before < 5
    left = pathlib.Path("/proc", child.read_text().strip(), "cmdline")
    assert not left.exists() or not left.read_bytes()  # of one that is dead and that nobody has buried


def test_a_command_has_ended_though_what_it_started_holds_its_output():
    """As ssh does that leaves a connection open for the next one."""
    result = execute.run(Command(("sh", "-c", "echo out; echo err >&2; sleep 9 & exit 3"), "x"), Patience(timeout=4))
    assert (result.code, result.out, result.err) == (3, "out\n", "err\n")


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(0, 0, False), (2, 0, False), (75, 0, True), (1, 0, True), (137, 3, True), (75, 4, False), (130, 0, False)],
)
def test_the_batch_script_requeues_itself_after_what_may_go_better_next_time(code, restarts, requeued, tmp_path):
    for name, body in (("srun", f"exit {code}"), ("scontrol", 'echo "$@" > "$RECORD"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORD": str(tmp_path / "got"), "SLURM_JOB_ID": "7"}
    env |= {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
    job = Job("job", "c.py", "/w", restarts=4)
    script = slurm.script(job, targets.Slurm(partition="gpu", nodes=1))
    assert subprocess.run(["bash"], input=script, text=True, env=env, capture_output=True).returncode == code
    assert (tmp_path / "got").exists() == requeued
    assert not requeued or (tmp_path / "got").read_text() == "requeue 7\n"


def test_a_host_starts_training_once_is_attached_to_again_and_tells_its_code(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "ready").touch()
    train = "echo started >> starts; echo step 1; while [ ! -f go ]; do sleep 0.05; done; echo step 2; exit 75"
    command = ["sh", "-c", tpu_vm.shell(tpu_vm.HOST, "job", "sh", "-c", train)]
    env = {**os.environ, "HOME": str(tmp_path)}
    first = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    with first:
        assert first.stdout.readline() == "step 1\n"
        os.killpg(first.pid, 9)  # the connection is lost
    second = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert second.stdout.readline() == "step 1\n"
    (folder / "go").touch()
    out, _ = second.communicate(timeout=20)
    assert out == "step 2\nllm_jax: exit 75\n" and second.returncode == 75
    assert (folder / "starts").read_text() == "started\n"


def test_a_host_that_is_attached_to_twice_while_it_is_made_ready_starts_training_once(tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "python3").write_text("#!/bin/sh\nsleep 0.2\n")
    (tmp_path / "python3").chmod(0o755)
    env = {**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    train = "echo started >> starts; while [ ! -f go ]; do sleep 0.05; done"
    command = ["sh", "-c", tpu_vm.shell(tpu_vm.HOST, "job", "sh", "-c", train)]
    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    while not (tmp_path / "job" / "starts").exists():
        time.sleep(0.02)
    time.sleep(0.5)
    (tmp_path / "job" / "go").touch()
    assert [process.communicate(timeout=20)[0] for process in both] == ["llm_jax: exit 0\n"] * 2
    assert (tmp_path / "job" / "starts").read_text() == "started\n"


def test_a_host_that_is_to_end_lets_training_save(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "ready").touch()
    wait = "n=0; while [ $n -lt 400 ]; do sleep 0.05; n=$((n + 1)); done"
    train = f"trap 'echo saved > saved; exit 75' TERM; echo step 1; {wait}"
    env = {**os.environ, "HOME": str(tmp_path)}
    run = ["sh", "-c", tpu_vm.shell(tpu_vm.HOST, "job", "sh", "-c", train)]
    with subprocess.Popen(run, env=env, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout.readline() == "step 1\n"
        subprocess.run(["sh", "-c", tpu_vm.shell(tpu_vm.END, "job")], env=env, check=True, timeout=20)
        assert following.communicate(timeout=20)[0].endswith("llm_jax: exit 75\n")
    assert (folder / "saved").exists()
    subprocess.run(["sh", "-c", tpu_vm.shell(tpu_vm.END, "elsewhere")], env=env, check=True)
