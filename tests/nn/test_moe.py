"""Mixtures of experts: layers of `transformers` (see golden/make_moe.py), and the laws of routing and dispatch."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.mesh import plan
from llm_jax.nn.declare import declarations
from llm_jax.nn.initial import normal
from llm_jax.nn.mlp import GatedMlp
from llm_jax.nn.moe import exchange, experts
from llm_jax.nn.moe.experts import Experts, SparseMlp, clamped_swiglu, swiglu
from llm_jax.nn.moe.router import Load, SigmoidRouter, SoftmaxRouter, TopKRouter, losses

with np.load(Path(__file__).parents[1] / "golden" / "moe.npz") as arrays:
    GOLDEN = dict(arrays)
N = normal(0.5)
REAL = np.ones((2, 7), bool)
DEEPSEEK = partial(SigmoidRouter, 8, 2, N, groups=4, top_groups=2, scale=2.5)
gated = partial(Experts, hidden=6, up_init=N, down_init=N)
LAYERS = {
    "mixtral": SparseMlp(SoftmaxRouter(4, 2, N), gated(4)),
    "qwen3_moe": SparseMlp(SoftmaxRouter(5, 2, N), gated(5)),
    "qwen3_moe raw": SparseMlp(SoftmaxRouter(5, 2, N, renormalize=False), gated(5)),
    "gpt_oss": SparseMlp(TopKRouter(4, 2, N), gated(4, activate=clamped_swiglu, bias=True)),
    "deepseek_v3": SparseMlp(DEEPSEEK(), gated(8), GatedMlp(12, N, N)),
    "deepseek_v3 raw": SparseMlp(DEEPSEEK(renormalize=False), gated(8), GatedMlp(12, N, N)),
}
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def halves(tensor, axis):
    return dict(zip(("gate", "up"), np.split(tensor, 2, axis), strict=True))


def ours(theirs):
    """Our parameters of foreign tensors [E, out, in]; gpt-oss's are [E, in, out] with gate and up interleaved."""
    found = {}
    for name, a in theirs.items():
        if name in ("gate.weight", "router.weight"):
            found["router/kernel"] = a.T.copy()
        elif name == "router.bias":
            found["router/bias"] = a
        elif name == "gate.e_score_correction_bias":
            found["router/correction_bias"] = a.copy()
        elif name.startswith("shared_experts"):
            found[f"shared/{name.split('.')[1].removesuffix('_proj')}"] = a.T
        elif "experts.gate_up_proj_bias" in theirs:
            made = {"gate": a[..., ::2], "up": a[..., 1::2]} if "gate_up" in name else {"down": a}
            found |= {f"experts/{part}{'_bias' * name.endswith('bias')}": v for part, v in made.items()}
        else:
            made = halves(a, 1) if "gate_up" in name else {"down": a}
            found |= {f"experts/{part}": np.swapaxes(v, 1, 2) for part, v in made.items()}
    return found


def case(name, kind):
    return {k.split("/")[-1]: a for k, a in GOLDEN.items() if k.startswith(f"{name}/{kind}/")}


def weights(name):
    return tree.unflatten(ours(case(name, "weight")))


@pytest.mark.parametrize("name", LAYERS)
def test_output_and_gradients_are_those_of_transformers(name):
    layer, x, direction = LAYERS[name], GOLDEN[f"{name}/x"], GOLDEN[f"{name}/direction"]

    def total(params, x):
        y, _ = layer.apply({"params": params}, x, REAL)
        return (y * direction).sum(), y

    (_, y), (dparams, dx) = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(weights(name), x)
    expected = case(name, "gradient")
    np.testing.assert_allclose(y, GOLDEN[f"{name}/y"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dx, expected.pop("x"), rtol=1e-4, atol=1e-4 * np.abs(dx).max())
    for path, wanted in ours(expected).items():
        found = tree.flatten(dparams)[path]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max(), err_msg=path)


def test_the_golden_input_reaches_the_clamp():
    """Else gpt-oss's limit would be untested."""
    p, x = weights("gpt_oss")["experts"], GOLDEN["gpt_oss/x"]
    gate = np.einsum("btd,edf->btef", x, p["gate"]) + p["gate_bias"]
    up = np.einsum("btd,edf->btef", x, p["up"]) + p["up_bias"]
    assert (gate > 7).mean() > 0.02 and (up > 7).mean() > 0.02 and (up < -7).mean() > 0.02


@pytest.mark.parametrize("masked", [False, True])
def test_the_balance_loss_is_that_of_transformers(masked):
    """Over the tokens of all layers together; padding counts for nothing."""
    real = GOLDEN["balance/mask"] if masked else REAL
    router = SoftmaxRouter(5, 2, N)
    loads = [
        router.apply({"params": {"kernel": np.eye(5, dtype=np.float32)}}, logits.reshape(2, 7, 5), real).load
        for logits in GOLDEN["balance/logits"]
    ]
    found = losses(loads[0].plus(loads[1]), balance=0.3, z=0.7)
    close(found["balance"].value, 0.3 * GOLDEN["balance/masked" if masked else "balance/whole"])
    log_z = np.log(np.exp(GOLDEN["balance/logits"]).sum(-1)).reshape(2, 2, 7)[:, real]
    close(found["router_z"].value, 0.7 * np.square(log_z).mean())  # Zoph et al. 2022, eq. 5


rng = np.random.default_rng(0)
X = rng.normal(size=(4, 6, 8)).astype(np.float32)


def draw(layer, x=X):
    """Random parameters of a layer, none of them zero."""
    made = declarations(layer, x, np.ones(x.shape[:2], bool))
    return tree.unflatten({p: rng.normal(size=d.shape).astype(np.float32) for p, d in sorted(made.items())})


@pytest.mark.parametrize("name", LAYERS)
def test_tokens_in_another_order_give_the_same_in_that_order(name):
    layer, order = LAYERS[name], rng.permutation(24)
    run = jax.jit(lambda p, x: layer.apply({"params": p}, x, np.ones(x.shape[:2], bool)))
    (y, load), (shuffled, same) = (run(weights(name), x) for x in (X, X.reshape(24, 8)[order].reshape(4, 6, 8)))
    close(shuffled, np.asarray(y).reshape(24, 8)[order].reshape(4, 6, 8), rtol=1e-4, atol=1e-4)
    jax.tree.map(close, same, load)


@pytest.mark.parametrize("bias", [False, True])
def test_one_expert_is_a_dense_layer(bias):
    layer = SparseMlp(SoftmaxRouter(1, 1, N), gated(1, bias=bias))
    params = draw(layer)
    y, load = layer.apply({"params": params}, X, np.ones((4, 6), bool))
    p = {name: a[0] for name, a in params["experts"].items()}
    gate, up = (X @ p[name] + p.get(f"{name}_bias", 0) for name in ("gate", "up"))
    close(y, swiglu(gate, up) @ p["down"] + p.get("down_bias", 0), rtol=1e-4, atol=1e-4)
    assert load.chosen == 24 and losses(load, balance=1.0, z=0.0)["balance"].value == 1.0


def test_all_tokens_at_one_expert_lose_none():
    """Its gate, up and down alone make the output, however many tokens come."""
    layer = Experts(4, 6, N, N)
    chosen = np.full((4, 6, 1), 2, np.int32)
    inputs = (X, chosen, np.ones((4, 6, 1), np.float32))
    p = tree.unflatten(
        {k: rng.normal(size=d.shape).astype(np.float32) for k, d in declarations(layer, *inputs).items()}
    )
    alone = swiglu(X @ p["gate"][2], X @ p["up"][2]) @ p["down"][2]
    close(layer.apply({"params": p}, *inputs), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_an_expert_that_no_token_chooses_has_zero_gradient(name):
    layer, params, x = LAYERS[name], weights(name), np.abs(X)
    params["router"]["kernel"][:, 1] = -20
    if "correction_bias" in params["router"]:
        params["router"]["correction_bias"][1] = -100

    def total(p):
        y, load = layer.apply({"params": p}, x, np.ones((4, 6), bool))
        return jnp.square(y).sum() + losses(load, balance=1.0, z=1.0)["balance"].value, load

    (value, load), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    assert load.chosen[1] == 0 and np.isfinite(value) and np.asarray(load.chosen).sum() == 48
    for path, g in tree.flatten(gradient).items():
        assert np.isfinite(g).all(), path
        if path.startswith("experts/"):
            assert not np.any(g[1]) and np.any(g), path


@pytest.mark.parametrize("name", LAYERS)
def test_padding_is_sent_nowhere_and_weighs_nothing(name):
    real = np.arange(6) < np.array([[6], [3], [1], [0]])
    run = jax.jit(lambda p, x: LAYERS[name].apply({"params": p}, x, real))
    y, load = run(weights(name), X)
    again, same = run(weights(name), np.where(real[..., None], X, 7 * X + 1))
    np.testing.assert_array_equal(np.asarray(y)[real], np.asarray(again)[real])
    jax.tree.map(np.testing.assert_array_equal, load, same)
    assert load.tokens == 10 and load.chosen.sum() == 20
    if LAYERS[name].shared is None:
        assert not np.any(np.asarray(y)[~real])


def test_nothing_but_padding_adds_no_loss():
    _, load = LAYERS["mixtral"].apply({"params": weights("mixtral")}, X, np.zeros((4, 6), bool))
    assert [float(m.value) for m in losses(load, balance=1.0, z=1.0).values()] == [0.0, 0.0]


def test_descending_the_balance_loss_spreads_the_tokens():
    router, x = SoftmaxRouter(4, 1, N), np.abs(X)
    params = {"kernel": rng.normal(size=(8, 4)).astype(np.float32) * 0.1 + np.array([0.1, 0, 0, 0], np.float32)}
    loss = lambda p: losses(router.apply({"params": p}, x, np.ones((4, 6), bool)).load, balance=1.0, z=0.0)  # noqa: E731
    step = jax.jit(jax.value_and_grad(lambda p: loss(p)["balance"].value))
    first = step(params)[0]
    for _ in range(50):
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, step(params)[1])
    assert first > 1.5 and step(params)[0] < 1.2


def test_a_correction_bias_moves_against_the_load_and_changes_no_loss():
    params, real = weights("deepseek_v3")["router"], np.ones((4, 6), bool)
    router = DEEPSEEK(groups=1, top_groups=1, pull=0.5)
    load = router.apply({"params": params}, X, real).load
    gradient = jax.grad(
        lambda p: losses(router.apply({"params": p}, X, real).load, balance=0.0, z=0.0)["balance"].value
    )
    moved = gradient(params)["correction_bias"]
    close(moved, 0.5 * (load.chosen / load.chosen.mean() - 1))
    assert load.pull == 0 and np.abs(moved).max() > 0.1


def test_groups_confine_the_choice():
    params = weights("deepseek_v3")["router"] | {"correction_bias": np.zeros(8, np.float32)}
    chosen = DEEPSEEK(top_groups=1).apply({"params": params}, X, np.ones((4, 6), bool)).chosen
    assert (chosen[..., 0] // 2 == chosen[..., 1] // 2).all() and len(np.unique(chosen // 2)) > 1


MESHES = {
    "data2 expert2 tensor2": {"data": 2, "expert": 2, "tensor": 2},
    "fsdp4 tensor2": {"fsdp": 4, "tensor": 2},
    "expert8 does not divide": {"expert": 8},
    "context2 expert4": {"context": 2, "expert": 4},
}


@pytest.mark.rotates(4)
@pytest.mark.parametrize(
    "explicit", [pytest.param(False, id="auto"), pytest.param(True, id="explicit", marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
@pytest.mark.parametrize("name", ["gpt_oss", "deepseek_v3"])
def test_a_mesh_changes_no_output_no_load_and_no_gradient(name, sizes, explicit):
    layer, params = LAYERS[name], weights(name)
    real = np.arange(6) < np.array([[6], [3], [1], [5]])

    def total(p, x):
        y, load = layer.apply({"params": p}, x, real)
        aux = losses(load, balance=1.0, z=1.0)
        return jnp.where(real[..., None], jnp.square(y), 0).sum() + sum(m.value for m in aux.values()), load

    step = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
    alone = jax.jit(step)(params, X)
    layout = plan.build(sizes, explicit=explicit)
    with layout.active():
        shardings = layout.shardings(declarations(layer, X, real))
        placed = jax.device_put(params, tree.unflatten(shardings))
        x = jax.device_put(X, layout.sharding(("batch", "seq", None), X.shape))
        found = jax.jit(step)(placed, x)
    jax.tree.map(lambda a, b: close(a, b, rtol=2e-5, atol=2e-5 * np.abs(b).max()), found, alone)
    split = sizes.get("expert", 1)
    assert ("expert" in str(shardings["experts/gate"].spec)) == (split > 1 and layer.experts.num_experts % split == 0)


def test_a_load_is_a_sum():
    one, two = (Load(*(rng.normal(size=s) for s in ((3,), (3,), (), (), ()))) for _ in range(2))
    jax.tree.map(lambda a, b, c: close(c, a + b), one, two, one.plus(two))


EXPERT_MESHES = {
    "expert8": {"expert": 8},
    "data2 expert4": {"data": 2, "expert": 4},
    "data2 expert2 tensor2": {"data": 2, "expert": 2, "tensor": 2},
    "fsdp2 context2 expert2": {"fsdp": 2, "context": 2, "expert": 2},
}
draws = np.random.default_rng(7)
TOKENS = draws.normal(size=(8, 6, 8)).astype(np.float32)
some = lambda experts: np.argsort(draws.normal(size=(8, 6, experts)), axis=-1)[..., :2]  # noqa: E731
CHOICES = {
    "any": some(8),
    "one expert of no token": some(7) + 1,
    "all tokens to one expert": np.broadcast_to([5, 8], (8, 6, 2)),
    "padding, to nobody": np.where(draws.random((8, 6, 1)) < 0.5, 8, some(8)),
    "nothing but padding": np.full((8, 6, 2), 8),
}


def in_terms_of_all_gather(rows, out, starts, sizes, places, arriving, *, axis_name):
    """`lax.ragged_all_to_all` by its definition, for CPUs: every device takes what all the others send to it."""
    me = jax.lax.axis_index(axis_name)
    sent, starts, sizes, places = (jax.lax.all_gather(a, axis_name) for a in (rows, starts, sizes, places))
    at = jnp.arange(out.shape[0])
    for source in range(sent.shape[0]):
        offset = at - places[source, me]
        mine = (offset >= 0) & (offset < sizes[source, me])
        out = jnp.where(mine[:, None], sent[source][jnp.clip(starts[source, me] + offset, 0, rows.shape[0] - 1)], out)
    return out


@pytest.fixture(scope="module")
def at_home():
    """A layer of eight experts: what it makes of tokens with gradients, the same compiled, parameters, declarations."""
    layer = Experts(8, 6, N, N, bias=True)
    declared = declarations(layer, TOKENS, CHOICES["any"], np.ones((8, 6, 2), np.float32))
    params = tree.unflatten({p: draws.normal(size=d.shape).astype(np.float32) for p, d in sorted(declared.items())})

    def total(params, x, weights, chosen):
        y = layer.apply({"params": params}, x, chosen, weights)
        return (y * np.cos(np.arange(y.size)).reshape(y.shape)).sum(), y

    def step(*inputs):
        (_, y), gradients = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(*inputs)
        return y, gradients

    return step, jax.jit(step), params, declared


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [*(("dense", sizes) for sizes in EXPERT_MESHES), *(("ragged", sizes) for sizes in list(EXPERT_MESHES)[2:])],
)
def test_tokens_that_travel_to_their_experts_come_back_with_what_these_made(at_home, sizes, kind, monkeypatch):
    """With room for the worst case, of which all tokens at one expert is one."""
    monkeypatch.setattr(jax.lax, "ragged_all_to_all", in_terms_of_all_gather)
    monkeypatch.setattr(experts, "auto", getattr(exchange, kind))
    (step, alone, params, declared), layout = at_home, plan.build(EXPERT_MESHES[sizes])
    weights = draws.normal(size=(8, 6, 2)).astype(np.float32)
    wanted = {name: alone(params, TOKENS, weights, chosen) for name, chosen in CHOICES.items()}
    with layout.active():
        shardings = layout.shardings(declared)
        placed = jax.device_put(params, tree.unflatten(shardings))
        x = jax.device_put(TOKENS, layout.sharding(("batch", "seq", None), TOKENS.shape))
        away = jax.jit(lambda *a: step(*a)).lower(placed, x, weights, CHOICES["any"]).compile()
        assert shardings["gate"].spec[0] == "expert" and x.sharding.shard_shape(x.shape)[0] * layout.batch_shards == 8
        assert ("all-to-all" in away.as_text()) == (kind == "dense")
        for name, chosen in CHOICES.items():
            found = tree.flatten(away(placed, x, weights, chosen))
            for (path, a), b in zip(found.items(), jax.tree.leaves(wanted[name]), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max(), err_msg=f"{name} {path}")
