"""What a process learns from its environment about the others of its run."""

import pytest

from llm_jax.core.table import UserError
from llm_jax.mesh.join import found

TOLD = {"JAX_COORDINATOR_ADDRESS": "host:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
SLURM = {
    "SLURM_JOB_ID": "9", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"
}  # fmt: skip
MPI4 = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}  # fmt: skip
MPI5 = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PMIX_NAMESPACE": "prterun-host-7@1"}
JOB = {"JOB_COMPLETION_INDEX": "1", "JAX_NUM_PROCESSES": "4", "JAX_COORDINATOR_ADDRESS": "a-0.b:1"}


def test_a_process_alone_joins_nobody():
    for environ in ({}, {"JOB_COMPLETION_INDEX": "0"}, {"SLURM_JOB_ID": "9", "SLURM_NTASKS": "4"},
                    {**TOLD, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, {**SLURM, "SLURM_NTASKS": "1"},
                    {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}):  # fmt: skip
        assert found(environ) is None


def test_what_is_told_outright_comes_first():
    assert found({**SLURM, **TOLD}) == {
        "coordinator_address": "host:1", "num_processes": 4, "process_id": 3, "cluster_detection_method": "deactivate"
    }  # fmt: skip


def test_slurm_and_open_mpi_4_are_left_to_jax_which_agrees(monkeypatch):
    from jax._src.clusters import ClusterEnv

    for environ, method, wanted in ((SLURM, "slurm", "n1:61449"), (MPI4, "ompi", "10.96.0.1:61745")):
        assert found(environ) == {"cluster_detection_method": method}
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            known = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, method, 1)
        assert known[1:3] == (2, 1)
        assert known[0].split(":")[0] == wanted.split(":")[0]


def test_what_mpirun_starts_within_a_slurm_job_is_a_process_of_mpirun():
    inherited = {**SLURM, "SLURM_PROCID": "0"}  # of the daemon that started it
    assert found({**inherited, **MPI4}) == {"cluster_detection_method": "ompi"}
    assert found({**inherited, **MPI5, "JAX_COORDINATOR_ADDRESS": "host:1"})["process_id"] == 1


def test_an_interrupt_ends_one_of_several_processes_as_it_ends_a_single_one(monkeypatch, capfd):
    from llm_jax.mesh import join

    codes = []
    monkeypatch.setattr(join, "join", lambda: True)
    monkeypatch.setattr(join.os, "_exit", codes.append)
    for error in (KeyboardInterrupt(), UserError("the user's"), RuntimeError("ours")):
        with join.joined():
            raise error
    assert codes == [130, 2, 1]
    said = capfd.readouterr().err
    assert "llm_jax: interrupted" in said and "KeyboardInterrupt" not in said and "RuntimeError: ours" in said


def test_open_mpi_5_on_one_host_meets_on_the_loopback_address_at_a_port_of_the_job():
    where = [found({**MPI5, "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_RANK": rank}) for rank in "01"]
    assert {w["coordinator_address"] for w in where} == {where[0]["coordinator_address"]}
    host, port = where[0]["coordinator_address"].split(":")
    assert host == "127.0.0.1" and 1024 < int(port) < 65536
    assert [w["process_id"] for w in where] == [0, 1]
    other = found({**MPI5, "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": "prterun-host-8@1"})
    assert other["coordinator_address"] != where[0]["coordinator_address"]


def test_open_mpi_5_on_several_hosts_says_what_it_must_be_told():
    with pytest.raises(UserError, match=r"process 1 of 2.*mpirun -x JAX_COORDINATOR_ADDRESS"):
        found({**MPI5, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
    told = found({**MPI5, "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "JAX_COORDINATOR_ADDRESS": "host:1"})
    assert told["coordinator_address"] == "host:1" and told["process_id"] == 1


def test_pods_count_through_all_jobs_of_a_job_set():
    assert found(JOB)["process_id"] == 1
    assert found({**JOB, "JOB_INDEX": "1", "PROCESSES_IN_JOB": "2"})["process_id"] == 3


@pytest.mark.parametrize(
    ("environ", "method"),
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "gketpu"), ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, "gketpu"),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "gketpu"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None), ({}, "gcetpu"), ({"TPU_SKIP_MDS_QUERY": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, None),
    ],
)  # fmt: skip
def test_hosts_of_tpus_are_left_to_jax_unless_one_is_alone(environ, method):
    assert found(environ, on_tpu=True) == (method and {"cluster_detection_method": method})
    assert found(environ) is None


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({**TOLD, "JAX_PROCESS_ID": "x"}, "JAX_PROCESS_ID='x' must be a whole number"),
        ({**TOLD, "JAX_PROCESS_ID": "4"}, "process 4 of 4"),
        ({**JOB, "JAX_COORDINATOR_ADDRESS": ""}, "JAX_COORDINATOR_ADDRESS=HOST:PORT"),
        ({**SLURM, "SLURM_NTASKS": ""}, "SLURM_NTASKS=''"),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "x"}, "MEGASCALE_NUM_SLICES='x' must be a whole"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(environ, complaint):
    with pytest.raises(UserError, match=complaint):
        found(environ, on_tpu=True)
