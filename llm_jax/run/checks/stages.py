"""Whether a model and a batch go through the stages of a plan; the door at which those that do not are refused."""

from llm_jax.core.table import UserError
from llm_jax.core.types import Model
from llm_jax.mesh.plan import Plan
from llm_jax.nn.stack import runs


def check(plan: Plan, model: Model, rows: int) -> None:
    """Refuse a pipeline that would not be one: the model's longest run of equal layers, and `rows`, must divide.

    Shorter runs that do not divide are run on the whole batch, whose rows are split over the stages.

    Raises:
        UserError: what does not divide, and the nearest that does.
    """
    if plan.stages == 1:
        return
    pattern, length = longest_run(model)
    what = f"{length} equal layers" if pattern == 1 else f"{length} equal patterns of {pattern} layers"
    if length % plan.stages:
        near = min((s for s in range(1, length + 1) if length % s == 0), key=lambda s: abs(s - plan.stages))
        raise UserError(f"mesh.stage={plan.stages} does not divide the model's {what}; try mesh.stage={near}")
    each = length // plan.stages
    if each % plan.repeats:
        near = min((r for r in range(1, each + 1) if each % r == 0), key=lambda r: abs(r - plan.repeats))
        raise UserError(
            f"mesh.pipeline.repeats={plan.repeats} over mesh.stage={plan.stages} does not divide the model's {what}; "
            f"try mesh.pipeline.repeats={near}"
        )
    _check_microbatches(plan, rows)


def _check_microbatches(plan: Plan, rows: int) -> None:
    parts, shards = plan.microbatches, plan.batch_shards // plan.stages
    if parts is None or (parts % plan.stages == 0 and rows % (parts * shards) == 0):
        return
    fitting = [m for m in range(plan.stages, rows + 1, plan.stages) if rows % (m * shards) == 0]
    raise UserError(
        f"mesh.pipeline.microbatches={parts} must be a multiple of mesh.stage={plan.stages} and divide the {rows} rows "
        f"of a step (data.batch_size / train.microbatches) over {shards} shards; "
        f"try mesh.pipeline.microbatches={min(fitting, key=lambda m: abs(m - parts))}"
    )


def longest_run(model: Model) -> tuple[int, int]:
    """Return (layers of a pattern, how often it repeats) of the run that most of a model's layers are in."""
    stacks = getattr(model, "stacks", None)
    if stacks is None:  # one stack of equal layers
        return 1, next(d.shape[0] for d in model.declarations().values() if d.axes[:1] == ("layer",))
    kind_of = {number: kind for kind, numbers in stacks().items() for number in numbers}
    _, pattern, repeats = max(
        runs(tuple(kind_of[i] for i in range(len(kind_of)))), key=lambda run: len(run[1]) * run[2]
    )
    return len(pattern), repeats
