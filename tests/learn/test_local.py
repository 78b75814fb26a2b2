"""Laws of workers that learn apart: with one of them, or meetings at every step, they are what is known already."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.core.types import Mean
from llm_jax.learn import outer
from llm_jax.learn.begin import begun
from llm_jax.learn.ema import averaged, ema
from llm_jax.learn.gradient import gradient, plain
from llm_jax.learn.local import federated, local
from llm_jax.mesh import hosts, plan
from llm_jax.models.decoder.llama import Llama
from llm_jax.objectives.causal import Causal
from llm_jax.optim.transform import transformation
from llm_jax.planning import collectives, hlo
from llm_jax.run.build import shardings

V, B, T, L = 24, 8, 12, 4
MODEL = Llama(vocab_size=V, num_layers=2, embed_dim=16, num_heads=2, mlp_dim=24)


def toy(params, batch, key):
    """A gradient rule that compiles at once: L layers on an embedding, and cross-entropy."""

    def total(p):
        x = p["embed"]["tokens"][batch["tokens"]]
        for layer in range(L):
            x = x + jnp.tanh(x @ p["blocks"]["up"][layer])
        chosen = jnp.take_along_axis(jax.nn.log_softmax(x @ p["out"]), batch["targets"][..., None], -1)[..., 0]
        return -jnp.sum(chosen * weights)

    weights = batch.get("weights", jnp.ones((B, T))[: len(batch["tokens"])])
    value, gradients = jax.value_and_grad(total)(params)
    loss = Mean(value, weights.sum())
    return Mean(gradients, loss.weight), loss, {"loss": loss}


def start(key):
    shapes = {"embed": {"tokens": (V, 8)}, "blocks": {"up": (L, 8, 8)}, "out": (8, V)}
    draw = lambda i, shape: jax.random.normal(jax.random.fold_in(key, i), shape) * 0.3  # noqa: E731
    leaves = jax.tree.leaves(shapes, is_leaf=lambda x: isinstance(x, tuple))
    form = jax.tree.structure(shapes, is_leaf=lambda x: isinstance(x, tuple))
    return jax.tree.unflatten(form, [draw(i, shape) for i, shape in enumerate(leaves)])


SGD = gradient(toy, start, transformation("sgd", 0.3))
ADAMW = gradient(toy, start, transformation("adamw", 0.02, weight_decay=0.1, clip_norm=1.0))
AVERAGE, DILOCO = outer.average(), outer.diloco()


def batch(step, weighted=False):
    rng = np.random.default_rng(step)
    tokens = rng.integers(0, V, (B, T)).astype(np.int32)
    weights = (rng.integers(0, 4, (B, T)) * np.arange(1, B + 1)[:, None]).astype(np.float32)  # rows very unequal
    return {"tokens": tokens, "targets": (tokens + 1) % V} | ({"weights": weights} if weighted else {})


def run(learner, steps, make=batch):
    """Every state from the first to the last."""
    update = jax.jit(learner.update)
    states = [jax.jit(learner.init)(jax.random.key(0))]
    for step in range(steps):
        states.append(update(states[-1], make(step))[0])
    return states


def near(a, b, atol=2e-6):
    for (path, x), y in zip(tree.flatten(a).items(), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol, err_msg=path)


def equal(a, b):
    for (path, x), y in zip(tree.flatten(a).items(), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=path)


def members(state):
    """The parameters of each worker."""
    crowd = state.extra["workers"].params
    return [jax.tree.map(lambda x, i=i: x[i], crowd) for i in range(jax.tree.leaves(crowd)[0].shape[0])]


def apart(state):
    """The paths of parameters in which workers differ."""
    first, *others = [tree.flatten(m) for m in members(state)]
    return {path for other in others for path in first if not np.array_equal(first[path], other[path])}


def test_one_worker_that_meets_itself_trains_as_if_there_were_no_workers():
    one, alone = run(local(ADAMW, 1, 2, AVERAGE), 6), run(ADAMW, 6)
    near(one[6].params, alone[6].params, 1e-5)
    near(members(one[5])[0], alone[5].params, 1e-5)
    near(one[6].extra["workers"].opt, jax.tree.map(lambda x: x[None], alone[6].opt), 1e-5)


@pytest.mark.parametrize("weighted", [False, True], ids=["equal rows", "unequal rows"])
def test_workers_that_meet_at_every_step_with_sgd_are_data_parallel(weighted):
    make = partial(batch, weighted=weighted)
    near(run(local(SGD, 4, 1, AVERAGE), 4, make)[4].params, run(SGD, 4, make)[4].params, 1e-5)


def test_workers_part_between_meetings_and_are_one_after():
    states = run(local(ADAMW, 4, 3, DILOCO), 6)
    for step in (0, 3, 6):
        assert not apart(states[step])
        for member in members(states[step]):
            equal(member, states[step].params)
    for step in (1, 2, 4, 5):
        assert apart(states[step]) == set(tree.flatten(states[0].params))
        equal(states[step].params, states[step // 3 * 3].params)


def by_hand(every, fragments, overlap, mixing, steps):
    """(outer parameters, those of each worker) by the algorithm of the papers, a worker at a time."""
    alone = jax.jit(ADAMW.update)
    states = [ADAMW.init(jax.random.key(0)) for _ in range(4)]
    theta = {path: np.asarray(x) for path, x in tree.flatten(states[0].params).items()}
    momentum, means = {path: np.zeros_like(x) for path, x in theta.items()}, {}

    def take(p):
        own = [{path: np.array(x) for path, x in tree.flatten(s.params).items()} for s in states]
        for path in [path for path in theta if p == 0 or "blocks" in path]:
            at = slice(p, None, fragments) if "blocks" in path else slice(None)
            outer_gradient = theta[path][at] - means[p][path][at]
            momentum[path] = momentum[path].copy()
            momentum[path][at] = 0.9 * momentum[path][at] + outer_gradient
            theta[path] = theta[path].copy()
            theta[path][at] -= 0.7 * (outer_gradient + 0.9 * momentum[path][at])
            for worker in own:
                worker[path][at] = mixing * worker[path][at] + (1 - mixing) * theta[path][at]
        states[:] = [replace(s, params=tree.unflatten(worker)) for s, worker in zip(states, own, strict=True)]

    for step in range(1, steps + 1):
        rows = [jax.tree.map(lambda x, i=i: x[2 * i : 2 * i + 2], batch(step - 1)) for i in range(4)]
        states[:] = [alone(s, r)[0] for s, r in zip(states, rows, strict=True)]
        for p in range(fragments):
            turn = step - p * every // fragments
            if overlap and (turn - overlap) % every == 0 and p in means:
                take(p)
            if turn % every == 0:
                crowd = [tree.flatten(s.params) for s in states]
                means[p] = {path: np.mean([np.asarray(w[path]) for w in crowd], 0) for path in theta}
                take(p) if not overlap else None
    return tree.unflatten(theta), [s.params for s in states]


@pytest.mark.parametrize(
    ("fragments", "overlap", "mixing"),
    [(1, 0, 0.0), (2, 0, 0.0), (3, 0, 0.0), (2, 1, 0.5)],
    ids=["blocking", "two fragments", "three fragments", "overlapped and mixed"],
)
def test_it_is_the_algorithm_of_the_papers_with_their_values(fragments, overlap, mixing):
    """Nesterov's momentum 0.9 at rate 0.7; layers l, l + P, … in turn; alpha of the old, 1 - alpha of the new."""
    learner = local(ADAMW, 4, 4, DILOCO, fragments=fragments, overlap=overlap, mixing=mixing)
    state = run(learner, 9)[9]
    theta, crowd = by_hand(4, fragments, overlap, mixing, 9)
    near(state.params, theta, 1e-5)
    for found, wanted in zip(members(state), crowd, strict=True):
        near(found, wanted, 1e-5)


def test_fragments_of_layers_meet_in_turn():
    states = run(local(ADAMW, 2, 4, DILOCO, fragments=2), 8)

    def layers(step):
        crowd = tree.flatten(states[step].extra["workers"].params)["blocks/up"]
        return [bool(np.array_equal(crowd[0, i], crowd[1, i])) for i in range(L)]

    assert layers(2) == layers(6) == [False, True, False, True]
    assert layers(4) == layers(8) == [True, False, True, False]
    assert layers(1) == layers(3) == layers(5) == [False] * L
    assert "embed/tokens" in apart(states[2]) and "embed/tokens" not in apart(states[4])


@pytest.mark.parametrize(("every", "fragments", "overlap"), [(2, 1, 0), (3, 2, 1)], ids=["blocking", "streaming"])
def test_what_matters_to_the_future_is_in_the_state(every, fragments, overlap):
    learner = local(ADAMW, 2, every, DILOCO, fragments=fragments, overlap=overlap, mixing=0.5 if overlap else 0.0)
    states = run(learner, 7)
    leaves, form = jax.tree.flatten(states[3])
    again = jax.tree.unflatten(form, [jnp.copy(x) for x in leaves])
    for step in range(3, 7):
        again = jax.jit(learner.update)(again, batch(step))[0]
    equal(again.params, states[7].params)


LLAMA = gradient(plain(MODEL, Causal()), MODEL.init, transformation("adamw", 0.02, clip_norm=1.0))
MESHES = {"slices": {"slice": 4, "fsdp": 2}, "shared": {"slice": 2, "data": 2, "tensor": 2}}
each_mesh = [pytest.param("slices", marks=pytest.mark.exhaustive), pytest.param("shared", marks=pytest.mark.exhaustive)]


@pytest.fixture(scope="module", params=each_mesh)
def on_a_mesh(request):
    """(sizes, the program compiled, the state after six steps, the same without a mesh)."""
    sizes, learner = MESHES[request.param], local(LLAMA, 4, 3, DILOCO, fragments=2, overlap=1, mixing=0.5)
    layout = plan.build({"data": 1, **sizes})
    rows = 16  # a row for each worker and shard
    make = lambda step: jax.tree.map(lambda x: np.concatenate([x, x[::-1]]), batch(step))  # noqa: E731
    with layout.active():
        places = shardings(layout, MODEL.declarations(), learner)
        state = jax.jit(learner.init, out_shardings=places)(jax.random.key(0))
        update = jax.jit(learner.update, out_shardings=(places, None))
        program = update.lower(state, hosts.to_devices(make(0), rows)).compile()
        for step in range(6):
            state, stats = program(state, hosts.to_devices(make(step), rows))
    return sizes, program, state, stats, run(learner, 6, make)[6]


def test_a_mesh_changes_nothing(on_a_mesh):
    _, _, state, _, alone = on_a_mesh
    near(state.params, alone.params, 5e-5)
    near(state.extra["workers"].params, alone.extra["workers"].params, 5e-5)


def test_nothing_crosses_from_worker_to_worker_but_at_a_meeting(on_a_mesh):
    """Of the compiled program: collectives along the axis of workers stand in the branches of meetings alone."""
    sizes, program, _, stats, _ = on_a_mesh
    read = hlo.parse(program.as_text())
    branches = {
        name for lines in read.computations.values() for line in lines if line.op == "conditional"
        for name in hlo.called(line)
    }  # fmt: skip
    mesh = {axis: sizes.get(axis, 1) for axis in plan.AXES}
    crossing = {True: 0, False: 0}  # in a branch, or not
    for name in read.runs():
        for line in read.computations[name]:
            if line.op.removesuffix("-start") in collectives.KINDS:
                along = collectives.axes_of(collectives.groups(line.rest, 8), mesh)
                crossing[name in branches] += "slice" in along
    assert crossing[False] == 0
    assert crossing[True] > 0
    assert stats["loss"].total.shape == (4,) and not stats["loss"].total.sharding.is_fully_replicated


def test_workers_live_on_their_slices(on_a_mesh):
    sizes, _, state, _, _ = on_a_mesh
    for path, leaf in tree.flatten(state.extra["workers"]).items():
        assert leaf.sharding.shard_shape(leaf.shape)[0] == 4 // sizes["slice"], path


def test_draws_of_workers_differ():
    keys = jax.random.key_data(local(SGD, 4, 2, AVERAGE).init(jax.random.key(0)).extra["workers"].key)
    assert len(np.unique(keys, axis=0)) == 4


def test_an_average_over_steps_is_of_the_outer_parameters():
    states = run(ema(local(SGD, 2, 2, AVERAGE), 0.5), 3)
    assert tree.flatten(averaged(states[3])).keys() == tree.flatten(states[3].params).keys()
    near(averaged(states[1]), states[0].params)


def test_a_state_begun_from_given_parameters_has_them_in_all_workers_and_averages():
    learner = ema(local(SGD, 2, 2, DILOCO), 0.9)
    given = start(jax.random.key(7))
    state = begun(learner.init(jax.random.key(0)), given)
    for part in (state.params, state.extra["ema"], *members(state)):
        equal(part, given)


def test_more_fragments_than_layers_are_refused():
    with pytest.raises(UserError, match=f"local.fragments=5 is more than the {L} layers of the model; try {L}"):
        local(SGD, 2, 8, AVERAGE, fragments=5).init(jax.random.key(0))


def test_a_round_of_all_clients_with_one_step_of_sgd_is_a_step_on_all_their_rows():
    make = partial(batch, weighted=True)
    near(run(federated(SGD, 8, 1, AVERAGE), 2, make)[2].params, run(SGD, 2, make)[2].params, 1e-5)


def test_clients_weigh_as_much_as_their_tokens_of_the_whole_round():
    """Client 0 has rows for two steps, client 1 for the first alone: 2 to 1."""
    short = {**batch(1), "weights": np.repeat([1.0, 0.0], B // 2)[:, None].repeat(T, 1).astype(np.float32)}
    rounds = [batch(0) | {"weights": np.ones((B, T), np.float32)}, short]
    state = run(federated(ADAMW, 2, 2, AVERAGE), 2, rounds.__getitem__)[2]
    first = run(local(ADAMW, 2, 99, AVERAGE), 2, rounds.__getitem__)
    own = [members(first[2])[0], members(first[1])[1]]
    near(state.params, jax.tree.map(lambda a, b: (2 * a + b) / 3, *own))


def test_a_client_keeps_no_state_from_round_to_round():
    learner = federated(ADAMW, 2, 2, AVERAGE)
    states = run(learner, 2)
    fresh = jax.tree.map(lambda x: jnp.stack([x, x]), ADAMW.init(jax.random.key(0)).opt)
    equal(states[2].extra["workers"].opt, fresh)
    with pytest.raises(AssertionError):
        equal(states[1].extra["workers"].opt, fresh)
