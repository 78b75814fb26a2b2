"""GKE: a JobSet, as XPK makes it: a Job for each slice, a pod for each host (jobset.sigs.k8s.io, v1alpha2).

The JobSet starts all pods again when one dies or is preempted (75), up to the job's bound, in the cluster, whether
anybody watches or not; a run that was refused (2) fails it at once. GKE tells TPU pods which of a slice they are.
"""

import json
from typing import Any

from llm_jax.launch import chips
from llm_jax.launch.job import Command, Job, Plan, Result, Slices, Status, needed
from llm_jax.run.targets import Gke

REQUIRED = ("image",)
CONTAINER, REPLICATED = "train", "slice"
PORT = 8476
KEPT = 24 * 3600  # seconds for which a finished JobSet, with its logs, stays
GRACE = 300  # seconds that a pod has to save
SLICE = "metadata.annotations['jobset.sigs.k8s.io/job-index']"


def manifest(job: Job, section: Gke) -> dict[str, Any]:
    """Return the JobSet."""
    slices = needed(job, "gke")
    pods, _ = chips.hosts(slices)
    labels = {"app.kubernetes.io/managed-by": "llm_jax"}
    queue = {"kueue.x-k8s.io/queue-name": section.queue} if section.queue else {}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": job.name, "labels": {**labels, **queue},
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "ttlSecondsAfterFinished": KEPT,
            "failurePolicy": {
                "maxRestarts": job.restarts,
                "rules": [{"name": "refused", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{
                "name": REPLICATED, "replicas": slices.count,
                "template": {"spec": {
                    "parallelism": pods, "completions": pods, "completionMode": "Indexed", "backoffLimit": 0,
                    "podFailurePolicy": {"rules": [
                        {"action": "FailJob", "onExitCodes": {
                            "containerName": CONTAINER, "operator": "In", "values": [2]}},
                    ]},
                    "template": {"metadata": {"labels": labels}, "spec": _pod(job, section, slices, pods)},
                }},
            }],
        },
    }  # fmt: skip


def _pod(job: Job, section: Gke, slices: Slices, pods: int) -> dict[str, Any]:
    on_tpu = slices.chip in chips.TPUS
    count = str(chips.hosts(slices)[1])
    if on_tpu:
        kind = {"gke-tpu-accelerator": chips.TPUS[slices.chip].gke, "gke-tpu-topology": slices.shape}
        env, limits = [], {"google.com/tpu": count}
    else:
        kind = {"gke-accelerator": chips.GPUS[slices.chip]}
        env, limits = _processes(job, slices, pods), {"nvidia.com/gpu": count}
    pool = {"gke-spot": "true"} if section.spot else {}
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        **({"serviceAccountName": section.service_account} if section.service_account else {}),
        **({"priorityClassName": section.priority} if section.priority else {}),
        "nodeSelector": {f"cloud.google.com/{name}": value for name, value in {**kind, **pool}.items()},
        "tolerations": [{"key": next(iter(limits)), "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [{
            "name": CONTAINER, "image": section.image, "command": list(job.train()), "env": env,
            "securityContext": {"privileged": True}, "resources": {"limits": limits},
        }],
    }  # fmt: skip


def _processes(job: Job, slices: Slices, pods: int) -> list[dict[str, Any]]:
    """The variables by which `mesh.join` finds the other pods where no TPU runtime tells."""
    first = f"{job.name}-{REPLICATED}-0-0.{job.name}"
    plain = {
        "JAX_COORDINATOR_ADDRESS": f"{first}:{PORT}", "JAX_NUM_PROCESSES": str(pods * slices.count),
        "PROCESSES_IN_JOB": str(pods),
    }  # fmt: skip
    which = {"name": "JOB_INDEX", "valueFrom": {"fieldRef": {"fieldPath": SLICE}}}  # JOB_COMPLETION_INDEX is given
    return [*({"name": name, "value": value} for name, value in plain.items()), which]


def plan(job: Job, section: Gke) -> Plan:
    """Return the commands."""
    kubectl: tuple[str, ...] = ("kubectl", f"--namespace={section.namespace}")
    if section.context:
        kubectl += (f"--context={section.context}",)
    first = (
        f"jobset.sigs.k8s.io/jobset-name={job.name},jobset.sigs.k8s.io/job-index=0,"
        "batch.kubernetes.io/job-completion-index=0"
    )
    logs = ("logs", "--follow", f"--selector={first}", f"--container={CONTAINER}", "--tail=1000")
    remove = Command((*kubectl, "delete", "jobset", job.name, "--ignore-not-found", "--timeout=300s"), "remove it")
    return Plan(
        status=Command((*kubectl, "get", "jobset", job.name, "--ignore-not-found", "--output=json"), "is it there?"),
        read=reported,
        submit=Command(
            (*kubectl, "create", "--filename=-"), "submit it", stdin=json.dumps(manifest(job, section), indent=2) + "\n"
        ),
        attach=Command((*kubectl, *logs), "follow the log of the first pod"),
        discard=(remove,),
        stop=(remove,),
    )


def reported(result: Result) -> Status | None:
    """Understand what kubectl says of the JobSet."""
    if result.code != 0:
        return None
    if not result.out.strip():
        return "absent"
    try:
        status = json.loads(result.out).get("status", {})
    except ValueError:
        return None
    true = {c["type"]: c.get("reason", "") for c in status.get("conditions", []) if c.get("status") == "True"}
    if "Completed" in true:
        return "done"
    if "Failed" in true:
        return "refused" if true["Failed"] == "FailJobSetAction" else "failed"
    jobs = status.get("replicatedJobsStatus", [])
    return "running" if any(job.get("ready") or job.get("active") for job in jobs) else "waiting"
