"""Every family on plans that split texts along their length: one loss, one gradient, one cached text.

Some families are run by every `pytest`, each on one plan; all on all are marked `exhaustive`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.mesh import plan
from llm_jax.mesh.hosts import to_devices
from tests.laws.kinds import KINDS

rng = np.random.default_rng(5)
ROWS, T = 4, 16
ENDS = np.array([[5, 11], [1, 16], [8, 13], [16, 16]])
BATCH = {
    "tokens": rng.integers(0, 40, (ROWS, T)).astype(np.int32),
    "targets": rng.integers(0, 40, (ROWS, T)).astype(np.int32),
    "segments": ((1 + (np.arange(T)[None, :, None] >= ENDS[:, None, :]).sum(-1)) % 3).astype(np.int32),  # 0: padding
}

PLANS = {
    "context8": {"sizes": {"context": 8}},
    "context2 fsdp2 tensor2": {"sizes": {"context": 2, "fsdp": 2, "tensor": 2}},
    "context4 data2": {"sizes": {"context": 4, "data": 2}},
    "heads context4 data2": {"sizes": {"context": 4, "data": 2}, "context_by": "heads"},
    "heads context2 fsdp2 tensor2": {"sizes": {"context": 2, "fsdp": 2, "tensor": 2}, "context_by": "heads"},
    "fsdp2 tensor4 between": {"sizes": {"fsdp": 2, "tensor": 4}, "sequence_sharded": True},
    "context2 fsdp2 tensor2 between": {"sizes": {"context": 2, "fsdp": 2, "tensor": 2}, "sequence_sharded": True},
}
ALWAYS = {
    ("llama", "context8"),
    ("gemma3", "context2 fsdp2 tensor2"),
    ("mixtral", "context4 data2"),
    ("mamba2", "context4 data2"),
}
EXPLICIT = ["gpt2", "llama", "mamba2", "mixtral"]
each = pytest.mark.parametrize(
    ("family", "layout"),
    [
        pytest.param(f, name, marks=[] if (f, name) in ALWAYS else pytest.mark.exhaustive, id=f"{f} {name}")
        for f in KINDS["split"]
        for name in PLANS
    ],
)


def loss(model):
    def cross_entropy(params, batch):
        out = model.apply(params, batch)
        logits, aux = out.logits, sum(m.value for m in out.aux.values())
        targets = jax.nn.one_hot(batch["targets"], logits.shape[-1]) * (batch["segments"] > 0)[..., None]
        return -(jax.nn.log_softmax(logits) * targets).sum() / batch["targets"].size + aux

    return jax.value_and_grad(cross_entropy)


def on(layout, model, params):
    """(loss, gradient, compiled text) with params, gradient and batch laid out by a plan."""
    with layout.active():
        shardings = tree.unflatten(layout.shardings(model.declarations()))
        placed, batch = jax.device_put(params, shardings), to_devices(BATCH, ROWS)
        step = jax.jit(loss(model), out_shardings=(None, shardings)).lower(placed, batch).compile()
        value, gradient = step(placed, batch)
        return value, jax.tree.map(np.asarray, gradient), step.as_text()


def agree(result, expected):
    np.testing.assert_allclose(result[0], expected[0], rtol=2e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[1]))
    for path, a in tree.flatten(result[1]).items():
        b = np.asarray(tree.flatten(expected[1])[path])
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max() + 1e-6 * largest, err_msg=path)


@pytest.mark.rotates(4)
@each
def test_split_texts_change_no_loss_and_no_gradient(family, layout, make, draw):
    model = make()
    params = draw(model)
    result = on(plan.build(**PLANS[layout]), model, params)
    agree(result, jax.jit(loss(model))(params, BATCH))
    way = "all-to-all" if "context_by" in PLANS[layout] else "collective-permute"
    assert way in result[2] or family == "mamba2" or "context" not in layout


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[] if f == "llama" else pytest.mark.exhaustive) for f in EXPLICIT]
)
def test_explicit_axes_agree_too(family, make, draw):
    """Explicit axes turn a silent gather into an error: what is gathered, the layers say."""
    model = make()
    params = draw(model)
    layout = plan.build({"context": 2, "fsdp": 2, "tensor": 2}, sequence_sharded=True, explicit=True)
    agree(on(layout, model, params), jax.jit(loss(model))(params, BATCH))


@pytest.mark.rotates(4)
@each
def test_cached_decoding_agrees_where_texts_are_split(family, layout, make, draw):
    model = make()
    params = draw(model)

    def decode(params, tokens):
        out, cache = model.prefill(params, {"tokens": tokens[:, :8]}, model.empty_cache(ROWS, T))
        more, cache = model.extend(params, tokens[:, 8:15], cache)
        last, _ = model.extend(params, tokens[:, 15:], cache)
        return jnp.concatenate([out.logits, more.logits, last.logits], axis=1)

    expected = jax.jit(lambda p, t: model.apply(p, {"tokens": t}).logits)(params, BATCH["tokens"])
    with plan.build(**PLANS[layout]).active():
        found = jax.jit(decode)(params, to_devices({"tokens": BATCH["tokens"]}, ROWS)["tokens"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
