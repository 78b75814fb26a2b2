"""What each target is asked for: manifests and flags that their published schemas accept, for every pod recipe."""

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import jax
import pytest
from jsonschema import Draft202012Validator, ValidationError

from llm_jax.cli import launch, main
from llm_jax.core.table import UserError
from llm_jax.launch import chips, gke, local, slurm, tpu_vm
from llm_jax.launch.job import Job, Slices, named
from llm_jax.run import targets

ROOT = Path(__file__).parents[2]
PODS = sorted((ROOT / "configs" / "pods").glob("*.py"))
SCHEMAS = {
    path.stem: Draft202012Validator(json.loads(path.read_text()))
    for path in (Path(__file__).parent / "schemas").glob("*.json")
}
HOSTILE = [
    "gs://b/$(touch pwned)", "gs://b/`touch pwned`", "x; touch pwned", "x\ntouch pwned", "a'b\"c", "x && touch pwned",
    "*", "~", "$HOME", "x' ; touch pwned ; '", "\\", "ü ×", "{restarts}", "%s", "#x", "x\nEND\ntouch pwned",
]  # fmt: skip
JOB = Job("run-1", "configs/x.py", "gs://bucket/run", ("--config.seed=3",), Slices("v5e", (4, 4)), restarts=4)
TPU, GKE = targets.TpuVm(project="project-1", zone="us-east5-b"), targets.Gke(image="registry/image:1")
SLURM = targets.Slurm(partition="gpu", nodes=2)


def options(words):
    """{--flag: value} of a vector of arguments, or of the head of a batch script."""
    return {name: value for name, _, value in (w.partition("=") for w in words if w.startswith("--"))}


def head(script):
    return options(line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH "))


def dry(capsys, *words):
    """What a dry run prints."""
    assert main(["launch", *words, "--dry_run"]) == 0
    return capsys.readouterr().out


@pytest.fixture
def nothing(monkeypatch, tmp_path):
    """A machine without programs, whose devices must not be looked at."""

    def refuse(*_, **__):
        raise AssertionError("a dry run looks at nothing")

    for name in ("devices", "local_devices", "device_count", "process_index"):
        monkeypatch.setattr(jax, name, refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("recipe", PODS, ids=lambda p: p.stem)
def test_a_dry_run_of_every_pod_recipe_passes_the_schema_of_every_target(recipe, nothing, capsys):
    words = [f"--config={recipe}", "--workdir=gs://bucket/run"]
    printed = dry(capsys, *words, "--on=gke")
    document = json.loads(printed.split("<<'END'\n")[1].split("\nEND\n")[0])
    SCHEMAS["jobset"].validate(document)
    plan = json.loads(recipe.with_suffix(".json").read_text())
    (job,) = document["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]["containers"][0]
    assert job["template"]["spec"]["parallelism"] * int(pod["resources"]["limits"]["google.com/tpu"]) == plan["chips"]
    assert pod["image"] == "<IMAGE>" and f"--config={recipe}" in pod["command"]

    printed = dry(capsys, *words, "--on=tpu_vm")
    (create,) = [shlex.split(line) for line in printed.splitlines() if " queued-resources create " in line]
    SCHEMAS["queued_resources"].validate(options(create))
    assert "'--project=<PROJECT>' '--zone=<ZONE>'" in printed

    for more in ([], ["--topology=h100:32x8"]):
        SCHEMAS["sbatch"].validate(head(dry(capsys, *words, "--on=slurm", *more)))


def test_a_dry_run_prints_the_same_every_time(nothing, capsys):
    words = ["--config=configs/pods/llama3_8b.py", "--workdir=gs://bucket/run", "--on=gke"]
    assert dry(capsys, *words) == dry(capsys, *words)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d["spec"].update(surprise=1),
        lambda d: d["metadata"].update(name="Upper"),
        lambda d: d["spec"]["replicatedJobs"][0]["template"]["spec"].update(parallelism="2"),
        lambda d: d["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"].update(restartPolicy="Always"),
        lambda d: d["spec"]["failurePolicy"]["rules"][0].update(action="Explode"),
    ],
)
def test_the_schema_refuses_a_spoilt_manifest(spoil):
    document = gke.manifest(JOB, GKE)
    SCHEMAS["jobset"].validate(document)
    spoil(document)
    with pytest.raises(ValidationError):
        SCHEMAS["jobset"].validate(document)


def test_every_setting_of_every_target_finds_its_place_and_passes():
    full = targets.Gke("image", "space", "context", "queue", "high", "account", True)
    document = gke.manifest(JOB, full)
    SCHEMAS["jobset"].validate(document)
    text = json.dumps([document, gke.plan(JOB, full).status.argv])
    assert all(str(v) in text for v in ("space", "context", "queue", "high", "account", "gke-spot"))
    vm = targets.TpuVm("project-1", "us-east5-b", None, "net", "account@x", spot=True)
    create = tpu_vm.plan(JOB, vm).submit.argv
    SCHEMAS["queued_resources"].validate(options(create))
    assert {"--spot", "--network=net", "--service-account=account@x"} <= set(create)
    batch = slurm.script(
        dataclasses.replace(JOB, slices=None),
        targets.Slurm("gpu", 3, "me", "1-12:00:00", 4, 2, 8, "/code", "/venv/python"),
    )  # fmt: skip
    SCHEMAS["sbatch"].validate(head(batch))
    assert head(batch)["--nodes"] == "3" and head(batch)["--gpus-per-node"] == "4" and "/venv/python -m" in batch


def test_several_slices_are_one_job_set_and_one_queued_resource():
    job = dataclasses.replace(JOB, slices=Slices("v5p", (4, 4, 8), 4))
    document = gke.manifest(job, GKE)
    SCHEMAS["jobset"].validate(document)
    assert document["spec"]["replicatedJobs"][0]["replicas"] == 4
    create = options(tpu_vm.plan(job, TPU).submit.argv)
    SCHEMAS["queued_resources"].validate(create)
    assert create["--node-count"] == "4" and create["--accelerator-type"] == "v5p-256"  # counts two cores a chip


def test_pods_of_gpus_are_told_who_they_are_in_the_words_that_processes_read():
    from llm_jax.mesh.join import found

    document = gke.manifest(dataclasses.replace(JOB, slices=Slices("h100", (2, 8), 2)), GKE)
    SCHEMAS["jobset"].validate(document)
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    plain = {e["name"]: e["value"] for e in job["template"]["spec"]["containers"][0]["env"] if "value" in e}
    ranks = [
        found({**plain, "JOB_INDEX": str(j), "JOB_COMPLETION_INDEX": str(p)})["process_id"]
        for j in range(2)
        for p in range(job["completions"])
    ]
    assert ranks == [0, 1, 2, 3]
    assert plain["JAX_COORDINATOR_ADDRESS"] == "run-1-slice-0-0.run-1:8476"


@pytest.mark.parametrize(
    ("slices", "hosts", "kind"),
    [
        (Slices("v5e", (1, 1)), (1, 1), "v5litepod-1"), (Slices("v5e", (2, 4)), (1, 8), "v5litepod-8"),
        (Slices("v5e", (16, 16)), (64, 4), "v5litepod-256"), (Slices("v4", (2, 2, 1)), (1, 4), "v4-8"),
        (Slices("v4", (4, 4, 4)), (16, 4), "v4-128"), (Slices("v6e", (16, 16)), (64, 4), "v6e-256"),
        (Slices("v5p", (4, 8, 8)), (64, 4), "v5p-512"),
    ],
)  # fmt: skip
def test_slices_are_called_what_providers_call_them(slices, hosts, kind):
    assert chips.hosts(slices) == hosts and chips.accelerator_type(slices) == kind


@pytest.mark.parametrize("text", HOSTILE)
def test_no_shell_makes_anything_of_what_a_user_gives(text, tmp_path, monkeypatch):
    """The batch script under bash and the command of a host under sh hand on the very words, and run nothing else."""
    job = dataclasses.replace(JOB, workdir=text, config=text, arguments=(f"--config.sample.prompts={text}",))
    wanted = job.train("python")[1:]
    recorder = '#!/bin/sh\nprintf \'%s\\0\' "$@" > "$RECORD"\n'
    for name in ("srun", "python"):
        (tmp_path / name).write_text(recorder)
        (tmp_path / name).chmod(0o755)
    home = tmp_path / "home" / job.name
    home.mkdir(parents=True)
    (home / "ready").touch()
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path / "home"), "RECORD": str(tmp_path / "got")}

    batch = slurm.script(dataclasses.replace(job, slices=None), SLURM)
    subprocess.run(["bash"], input=batch, text=True, env=env, check=True, cwd=tmp_path)
    assert (tmp_path / "got").read_text().split("\0")[2:-1] == list(wanted)  # after srun's own option, python

    line = tpu_vm.shell(tpu_vm.HOST, job.name, *job.train("python"))
    subprocess.run(["sh", "-c", line], env=env, check=True, cwd=tmp_path, capture_output=True)
    assert (tmp_path / "got").read_text().split("\0")[:-1] == list(wanted)
    assert not list(tmp_path.rglob("pwned"))

    pod = gke.manifest(job, GKE)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert json.loads(gke.plan(job, GKE).submit.stdin) == gke.manifest(job, GKE)
    assert pod["containers"][0]["command"][1:] == list(wanted)
    assert local.commands(dataclasses.replace(job, slices=None), targets.Local())[0].argv[1:] == wanted


@pytest.mark.parametrize("text", [*HOSTILE, "", "-x", "x-", "Upper", "1x", "x" * 41, "../x"])
def test_a_name_that_some_target_would_not_take_is_refused(text):
    with pytest.raises(UserError, match="--name="):
        named(text, "gs://bucket/run")


@pytest.mark.parametrize("text", ["a b", "a\n#SBATCH --x", "a'b", "a#b", 'a"b', "a\\b"])
@pytest.mark.parametrize("field", ["partition", "account", "directory", "time"])
def test_a_value_that_would_end_a_line_of_sbatch_is_refused(field, text):
    with pytest.raises(UserError, match=field if field in ("partition", "account", "time") else "chdir"):
        slurm.script(dataclasses.replace(JOB, slices=None), dataclasses.replace(SLURM, **{field: text}))


@pytest.mark.parametrize(
    "workdir", ["gs://bucket/a/run", "/tmp/Run 1/", "../..", "x" * 300, "gs://bucket/" + HOSTILE[0]]
)
def test_each_workdir_has_a_name_of_its_own_that_every_target_takes(workdir):
    name = named(None, workdir)
    assert named(name, "other") == name
    assert name == named(None, workdir) == named(None, workdir.rstrip("/") + "/") != named(None, workdir + "2")


def test_what_is_missing_is_refused_in_a_real_run_with_how_to_give_it(nothing, capsys):
    words = ["launch", "--config=configs/pods/llama3_8b.py", "--workdir=gs://bucket/run"]
    assert main([*words, "--on=tpu_vm", "--zone=us-east5-b"]) == 2
    said = capsys.readouterr().err
    assert "--project=… or --config.launch.tpu_vm.project=…" in said and "zone=…" not in said
    assert main([*words, "--on=gke"]) == 2 and "--image=…" in capsys.readouterr().err
    assert main([*words, "--on=slurm", "--partition=x"]) == 2 and "--nodes=…" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--on=tpu"], "'tpu_vm'"),
        (["--on=gke", "--topology=v6e:4x4x4"], "2 dimensions"),
        (["--on=gke", "--topology=v6e:16x16", "--slices=2"], "--config.mesh.slice=2"),
        (["--on=gke", "--config.mesh.fsdp=3"], "256"),
        (["--on=slurm", "--topology=v6e:16x16"], "--topology=h100"),
        (["--on=tpu_vm", "--topology=h100:4x8"], "has TPUs"),
        (["--on=tpu_vm", "--topology=v7x:4x4x8"], "--on=gke"),
        (["--on=tpu_vm", "--spot=True", "--reserved=True"], "exclude each other"),
        (["--on=tpu_vm", "--image=x"], "'--image' is not a flag"),
        (["--on=local", "--topology=v6e:16x16"], "leave out --topology"),
        (["--on=local", "--ranks=0"], "launch.local.ranks"),
        (["--on=local", "--restarts=-1"], "launch.restarts"),
        (["--on=slurm", "--slices=2"], "--topology"),
        (["--on=gke", "--config.model.layers=3"], "model.layers is not a key"),
    ],
)
def test_what_cannot_be_launched_is_refused_with_the_way_out(more, complaint, nothing, capsys):
    assert main(["launch", "--config=configs/pods/llama3_8b.py", "--workdir=gs://bucket/run", "--dry_run", *more]) == 2
    assert complaint in capsys.readouterr().err


def test_a_recipe_without_slices_says_which_flag_names_them(nothing, capsys):
    assert main(["launch", "--config=configs/debug.py", "--workdir=gs://b/x", "--dry_run", "--on=gke"]) == 2
    assert "--topology=CHIP:DIMENSIONS" in capsys.readouterr().err


def test_overrides_and_flags_of_train_are_passed_on_and_settings_of_the_target_are_not(nothing, capsys):
    printed = dry(
        capsys, "--config=configs/debug.py", "--workdir=/w", "--on=slurm", "--nodes=2", "--partition=p",
        "--config.train.duration=2 epochs", "--no_huge_pages", "--config.launch.slurm.account=me",
    )  # fmt: skip
    (line,) = [line for line in printed.splitlines() if line.startswith("srun")]
    assert "'--config.train.duration=2 epochs'" in line and "--no_huge_pages" in line and "nodes" not in line
    assert "#SBATCH --account=me" in printed and "#SBATCH --nodes=2" in printed


def test_ranks_of_this_machine_meet_on_the_loopback_address(nothing, capsys):
    printed = dry(capsys, "--config=configs/debug.py", "--workdir=/w", "--on=local", "--ranks=2", "--devices=2")
    assert printed.count("JAX_COORDINATOR_BIND_ADDRESS='127.0.0.1:<PORT>'") == 2
    assert "JAX_PROCESS_ID=1" in printed and "JAX_NUM_CPU_DEVICES=2" in printed


def test_the_flags_of_a_target_are_the_fields_of_its_section():
    for target in ("local", "slurm", "tpu_vm", "gke"):
        known = {action.dest for action in launch._parser(target, launch._fields(target))._actions}
        assert set(launch._fields(target)) <= known
    assert shutil.which("sh")
