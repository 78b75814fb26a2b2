"""Workers that learn apart: do they fit the mesh, the rows of a batch, the layers, and the data?"""

from typing import Any

from llm_jax.core.checks import nearest_multiple
from llm_jax.core.table import UserError
from llm_jax.mesh import workers
from llm_jax.mesh.plan import Plan
from llm_jax.run.parts.learning import Local
from llm_jax.run.sections import Data, Train


def check(local: Local, data: Data, train: Train, plan: Plan, optimizer: dict[str, Any], adapt: str = "none") -> None:
    """Refuse workers that cannot be.

    Raises:
        UserError: workers that the mesh or the batch does not divide into, clients without rounds, clients whose
            rounds would overlap or whose rate would change within a round.
    """
    if local.name != "none":
        if "optimizer" in plan.offload:
            raise UserError(
                f"mesh.offload=optimizer: local.name={local.name} keeps the optimizers of all workers on the "
                "devices; choose mesh.offload=activations, or local.name=none"
            )
        _check_mesh(local.workers, plan)
        _check_batch(local.workers, data.batch_size, train.microbatches, plan.batch_shards // workers.groups(plan))
    if local.name != "none" and train.learner == "private":
        raise UserError(f'local.name={local.name!r}: train.learner="private" counts no meetings; leave out one of them')
    if local.name != "none" and adapt != "none":
        raise UserError(f"local.name={local.name!r} and adapt.name={adapt!r}: workers have no adapters; leave one out")
    if data.federated:
        _check_clients(local, optimizer["schedule"]["name"])


def _check_mesh(count: int, plan: Plan) -> None:
    groups = workers.groups(plan)
    if count % groups:
        raise UserError(
            f"local.workers={count} do not spread over the {groups} slices of the mesh (mesh.slice={groups}); "
            f"try local.workers={nearest_multiple(count, groups)}"
        )


def _check_batch(count: int, rows: int, microbatches: int, shards: int) -> None:
    unit = count * microbatches * shards
    near = nearest_multiple(rows, unit)
    if rows % unit:
        raise UserError(
            f"data.batch_size={rows} does not divide into local.workers={count} shares of "
            f"train.microbatches={microbatches} parts over {shards} shards of a worker's batch; try {near}"
        )


def _check_clients(local: Local, schedule: str) -> None:
    if local.name == "none":
        raise UserError('data.clients needs rounds; set local.name="average", local.workers and local.every')
    if local.fragments > 1 or local.overlap:
        raise UserError(
            f"local.fragments={local.fragments} and local.overlap={local.overlap}: the clients of a round begin from "
            "one model; set them to 1 and 0, or leave out data.clients"
        )
    if schedule != "constant":
        raise UserError(
            f"optimizer.schedule.name={schedule!r}: clients begin each round with a new optimizer, whose rate would "
            "begin anew too; choose 'constant'"
        )
