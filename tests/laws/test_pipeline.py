"""A pipeline is the model, layer by layer on other devices: the same loss and gradient on every plan with stages.

One plan with every part in it is run by every `pytest`; the others are marked `exhaustive`.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from llm_jax.core import keys, tree
from llm_jax.core.table import UserError
from llm_jax.mesh import pipeline, plan
from llm_jax.mesh.hosts import to_devices
from llm_jax.mesh.pipeline import Flow
from llm_jax.nn.dropout import dropout
from llm_jax.nn.stack import stack
from llm_jax.run.checks import stages

rng = np.random.default_rng(6)
ROWS, T = 16, 10
BATCH = {
    "tokens": rng.integers(0, 40, (ROWS, T)).astype(np.int32),
    "targets": rng.integers(0, 40, (ROWS, T)).astype(np.int32),
    "segments": np.sort(rng.integers(1, 4, (ROWS, T)), axis=1).astype(np.int32),  # other ones in every row
    "weights": rng.uniform(0.5, 1.5, (ROWS, T)).astype(np.float32),
}
ALL = {"stage": 2, "data": 2, "tensor": 2}
CASES = [  # family, layers, mesh, the rest of the plan
    ("llama", 4, ALL, {"repeats": 2}),
    ("llama", 4, {"stage": 2, "fsdp": 4}, {"remat": "full", "repeats": 2}),
    ("llama", 4, {"stage": 4, "data": 2}, {"microbatches": 4}),
    ("llama", 8, {"stage": 8}, {}),
    ("llama", 4, {"slice": 2, "stage": 2, "data": 2}, {}),
    ("llama", 8, {"stage": 4, "data": 2}, {"repeats": 2, "remat": "dots"}),
    ("gpt2", 4, ALL, {}),
    ("gpt2", 4, {"stage": 2, "fsdp": 4}, {"repeats": 2}),
    ("gemma3", 8, ALL, {}),  # two of (local, local, global), then two local ones: two pipelines
    ("gemma3", 12, {"stage": 4, "fsdp": 2}, {"remat": "full"}),
    ("gemma3", 12, {"stage": 2, "fsdp": 4}, {"repeats": 2}),
    ("mixtral", 4, ALL, {"repeats": 2}),
    ("mixtral", 4, {"stage": 4, "fsdp": 2}, {}),
    ("deepseek_v3", 5, {"stage": 2, "data": 4}, {"repeats": 2}),  # the dense layer is in no pipeline
    ("mamba2", 4, {"stage": 2, "fsdp": 4}, {"repeats": 2}),
    ("mamba2", 4, {"stage": 4, "tensor": 2}, {}),
]


def loss(model):
    def cross_entropy(params, batch, key=None):
        out = model.apply(params, batch, key=key)
        logits, aux = out.logits, sum(m.value for m in out.aux.values())
        nll = -(jax.nn.log_softmax(logits) * jax.nn.one_hot(batch["targets"], logits.shape[-1])).sum(-1)
        return (nll * batch["weights"]).sum() / batch["weights"].sum() + aux

    return cross_entropy


@pytest.mark.parametrize(
    ("family", "layers", "sizes", "more"),
    [
        pytest.param(*case, id=f"{case[0]} {case[2]} {case[3]}", marks=pytest.mark.exhaustive if i else [])
        for i, case in enumerate(CASES)
    ],
)
def test_a_pipeline_changes_no_loss_and_no_gradient(tiny, draw, family, layers, sizes, more):
    model = tiny(family, num_layers=layers)
    params = draw(model)
    expected = jax.jit(jax.value_and_grad(loss(model)))(params, BATCH)
    layout = plan.build(sizes, **more)
    with layout.active():
        shardings = tree.unflatten(layout.shardings(model.declarations()))
        step = jax.jit(jax.value_and_grad(loss(model)), out_shardings=(None, shardings))
        step = step.lower(jax.device_put(params, shardings), to_devices(BATCH, ROWS)).compile()
        found = step(jax.device_put(params, shardings), to_devices(BATCH, ROWS))
    assert "collective-permute" in step.as_text()
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[1]))
    for path, a in tree.flatten(found[1]).items():
        b = np.asarray(tree.flatten(expected[1])[path])
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max() + 1e-6 * largest, err_msg=path)


def loops(jaxpr):
    """(length, how many times it sends round the ring) of every scan in a program, outer ones first."""
    found = []
    for equation in jaxpr.eqns:
        inner = [v.jaxpr if hasattr(v, "jaxpr") else v for v in jax.tree.leaves(tuple(equation.params.values()))]
        inner = [j for j in inner if hasattr(j, "eqns")]
        if equation.primitive.name == "scan":
            sends = sum(e.primitive.name == "ppermute" for e in inner[0].eqns)
            found.append((equation.params["length"], sends))
        found += [loop for j in inner for loop in loops(j)]
    return found


@pytest.mark.parametrize(
    ("sizes", "more", "ticks"),
    [
        ({"stage": 2, "data": 4}, {}, 2 * 2 + 1),  # 16 rows over four shards: four microbatches
        ({"stage": 2, "data": 4}, {"repeats": 2}, 2 * 4 + 1),
        ({"stage": 4, "data": 2}, {"microbatches": 8}, 8 + 3),
        ({"stage": 4, "data": 2}, {"microbatches": 4, "repeats": 2}, 2 * 4 + 3),
        ({"stage": 2, "fsdp": 2, "tensor": 2}, {}, 8 + 1),  # at most four a stage
    ],
    ids=str,
)
def test_the_loop_takes_repeats_times_microbatches_and_stages_less_one(tiny, sizes, more, ticks):
    model = tiny("llama", num_layers=8)
    params = {p: jax.ShapeDtypeStruct(d.shape, jnp.float32) for p, d in model.declarations().items()}
    batch = {name: field for name, field in BATCH.items() if name != "segments"}  # which are counted by a loop
    with plan.build(sizes, **more).active():
        program = jax.make_jaxpr(loss(model))(tree.unflatten(params), batch)
    groups = sizes["stage"] * more.get("repeats", 1)
    assert loops(program.jaxpr) == [(ticks, 1), (8 // groups, 0)]


SHAPES = [(s, m * s, r) for s, m, r in product((1, 2, 3, 4, 8), (1, 2, 5), (1, 2, 3, 4))]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_microbatch_passes_every_group_in_order_each_tick_on_the_next_stage(shape):
    schedule = Flow(*shape)
    seen = {}
    for tick, stage in product(range(schedule.ticks), range(schedule.stages)):
        busy, repeat, part = schedule.work(tick, stage)
        if busy:
            assert seen.setdefault((int(part), int(repeat) * schedule.stages + stage), tick) == tick
    assert len(seen) == schedule.microbatches * schedule.repeats * schedule.stages
    assert all(tick == seen[part, 0] + group for (part, group), tick in seen.items())
    idle = schedule.ticks * schedule.stages - len(seen)
    assert idle == schedule.stages * (schedule.stages - 1)
    assert schedule.bubble == pytest.approx(idle / (schedule.ticks * schedule.stages))


MORE_SIZES = [(2, 3), (4, 6), (8, 2)]


@pytest.mark.parametrize(
    ("size", "repeats"),
    [(2, 1), (2, 2), (4, 2), (8, 3), *(pytest.param(*sizes, marks=pytest.mark.exhaustive) for sizes in MORE_SIZES)],
)
def test_groups_are_dealt_to_the_stages_in_turn_and_none_is_gathered(size, repeats):
    """Of numbered layers, two a group, each stage gets those of its groups, and their gradients find the way back."""
    layers = np.arange(size * repeats * 2, dtype=np.float32)
    expected = layers.reshape(repeats, size, 2).swapaxes(0, 1)  # stage, repeat, layer of the group
    with plan.build({"stage": size, "data": -1}).active():
        deal, split = partial(pipeline._dealt, schedule=Flow(size, size, repeats)), P(plan.STAGE)
        island = jax.shard_map(
            lambda x: deal(x)[None], in_specs=split, out_specs=split, axis_names={plan.STAGE}, check_vma=False
        )

        def both(x):
            return island(x), jax.grad(lambda x: (island(x) * expected).sum())(x)

        x = jax.device_put(layers, plan.current().sharding(("layer",)))
        program = jax.jit(both, out_shardings=(None, x.sharding)).lower(x).compile()
        found, gradient = program(x)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(gradient, layers)
    assert "all-gather" not in program.as_text()


@pytest.mark.parametrize("sizes", [{"stage": 2, "data": 4}, {"stage": 4, "fsdp": 2}, ALL], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "mamba2"])
def test_a_stage_holds_its_layers_alone(tiny, family, sizes):
    layout, declared = plan.build(sizes), tiny(family, num_layers=4).declarations()
    for path, sharding in layout.shardings(declared).items():
        shape = declared[path].shape
        share = sharding.shard_shape(shape)[0] / shape[0] if path.startswith("blocks/") else None
        assert share in (None, 1 / sizes["stage"]), path
        assert share is not None or plan.STAGE not in jax.tree.leaves(tuple(sharding.spec)), path


@pytest.mark.parametrize("family", ["llama", pytest.param("mamba2", marks=pytest.mark.exhaustive)])
def test_cached_decoding_agrees_where_layers_lie_on_stages(tiny, draw, family):
    model = tiny(family, num_layers=4)
    params, tokens = draw(model), BATCH["tokens"]

    def decode(params, tokens):
        out, cache = model.prefill(params, {"tokens": tokens[:, :7]}, model.empty_cache(ROWS, T))
        more, _ = model.extend(params, tokens[:, 7:], cache)
        return jnp.concatenate([out.logits, more.logits], axis=1)

    expected = jax.jit(lambda p, t: model.apply(p, {"tokens": t}).logits)(params, tokens)
    with plan.build(ALL).active():
        shardings = tree.unflatten(plan.current().shardings(model.declarations()))
        found = jax.jit(decode)(jax.device_put(params, shardings), to_devices({"t": tokens}, ROWS)["t"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


def test_microbatches_draw_dropout_of_their_own():
    """Equal rows differ by their masks alone, as well in different microbatches as in one."""

    def layer(scale, x, where, index, carried, key):
        return x + scale * dropout(jnp.ones_like(x), 0.5, keys.fold(key, "layer", index)), carried

    with plan.build({"stage": 2, "data": 4}).active():
        run = jax.jit(lambda x, key: stack(layer, jnp.ones(2), x, None, None, key, whole=True)[0])
        found = np.asarray(run(to_devices({"x": np.zeros((16, T, 4), np.float32)}, 16)["x"], jax.random.key(0)))
    assert len({row.tobytes() for row in found}) == 16 and set(np.unique(found)) == {0, 2, 4}


@pytest.mark.exhaustive
def test_bfloat16_in_a_pipeline_is_as_near_to_float32_as_without(tiny, draw):
    model = tiny("llama", num_layers=4)
    params, found = draw(model), []
    for sizes, dtype in (({"data": 8}, "float32"), ({"data": 8}, "bfloat16"), ({"stage": 2, "fsdp": 4}, "bfloat16")):
        with plan.build(sizes, dtype=dtype).active():
            gradient = jax.jit(jax.grad(loss(model)))(params, to_devices(BATCH, ROWS))
        found.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)]))
    exact, plain, piped = found
    assert 0 < np.linalg.norm(piped - exact) < 1.5 * np.linalg.norm(plain - exact)  # of half as many rows at a time
    assert np.linalg.norm(plain - exact) < 0.1 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("family", "layers", "sizes", "more", "complaint"),
    [
        ("llama", 6, {"stage": 4, "data": 2}, {}, "mesh.stage=4 does not divide the model's 6 equal layers.*stage=3"),
        ("llama", 4, ALL, {"repeats": 3}, "pipeline.repeats=3 over mesh.stage=2.*4 equal layers.*pipeline.repeats=2"),
        ("gemma3", 9, ALL, {}, "3 equal patterns of 3 layers; try mesh.stage=1"),
        ("llama", 4, ALL, {"microbatches": 3}, "pipeline.microbatches=3 must be a multiple.*pipeline.microbatches=2"),
        ("llama", 4, ALL, {"microbatches": 6}, "divide the 16 rows.*over 2 shards; try mesh.pipeline.microbatches=4"),
    ],
    ids=str,
)
def test_what_makes_no_pipeline_is_refused_with_what_does(tiny, family, layers, sizes, more, complaint):
    with pytest.raises(UserError, match=complaint):
        stages.check(plan.build(sizes, **more), tiny(family, num_layers=layers), ROWS)


@pytest.mark.parametrize(
    ("family", "layers", "sizes"),
    [("llama", 4, ALL), ("gemma3", 8, ALL), ("deepseek_v3", 5, ALL), ("llama", 5, {"data": 8})],
    ids=str,
)
def test_what_makes_a_pipeline_is_let_in(tiny, family, layers, sizes):
    stages.check(plan.build(sizes), tiny(family, num_layers=layers), ROWS)
