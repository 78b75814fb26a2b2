"""Recurrent layers beside torch's, and what holds for models that carry their state from batch to batch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.core.table import UserError
from llm_jax.core.types import Carries
from llm_jax.data.build import build
from llm_jax.learn.carried import NAME, carried
from llm_jax.models.decoder.llama import Llama
from llm_jax.models.recurrent.gru import Gru
from llm_jax.models.recurrent.lstm import Lstm
from llm_jax.nn.attention import Context
from llm_jax.nn.recurrent import cells
from llm_jax.objectives.causal import Causal
from llm_jax.text import tokenizers

CELLS = {"lstm": cells.Lstm(), "gru": cells.Gru()}
FAMILIES = {"lstm": Lstm, "gru": Gru}
B, T, D, V = 3, 7, 5, 40
rng = np.random.default_rng(6)
X, DY = (rng.normal(size=(B, T, D)).astype(np.float32) for _ in range(2))
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def drawn(cell):
    """Parameters of one layer."""
    shapes = {"input": (D, cell.gates, D), "bias": (cell.gates, D), "recurrent": (D, cell.gates, D)}
    shapes |= {"recurrent_bias": (D,)} if cell.late_bias else {}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def along(cell, params, x):
    where = Context(jnp.zeros(x.shape[:2], jnp.int32), None)
    return cells.RecurrentLayer(cell).apply({"params": params}, x, where)[0]


def by_hand(name, p, x):
    """One step after another in numpy, float64, by the published equations."""
    p = {key: value.astype(np.float64) for key, value in p.items()}
    sigmoid, h, c, out = lambda a: 1 / (1 + np.exp(-a)), np.zeros((B, D)), np.zeros((B, D)), []
    for t in range(x.shape[1]):
        z = np.einsum("bd,dgf->bgf", x[:, t].astype(np.float64), p["input"]) + p["bias"]
        r = np.einsum("bd,dgf->bgf", h, p["recurrent"])
        if name == "lstm":
            i, f, g, o = np.moveaxis(z + r, 1, 0)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            reset, update = sigmoid(z[:, 0] + r[:, 0]), sigmoid(z[:, 1] + r[:, 1])
            h = (1 - update) * np.tanh(z[:, 2] + reset * (r[:, 2] + p["recurrent_bias"])) + update * h
        out.append(h)
    return np.stack(out, axis=1)


@pytest.mark.parametrize("name", CELLS)
def test_a_layer_is_the_published_equations(name):
    params = drawn(CELLS[name])
    close(along(CELLS[name], params, X), by_hand(name, params, X))


@pytest.mark.parametrize("name", CELLS)
def test_gradients_are_those_of_the_published_equations(name):
    params, size = drawn(CELLS[name]), 1e-6
    gradient = jax.grad(lambda p: (along(CELLS[name], p, X) * DY).sum())(params)
    for leaf, value in params.items():
        way = rng.normal(size=value.shape)
        ends = [by_hand(name, params | {leaf: value + sign * size * way}, X) for sign in (1, -1)]
        slope = ((ends[0] - ends[1]) * DY).sum() / (2 * size)
        close((gradient[leaf] * way).sum(), slope, rtol=1e-4, atol=1e-4, err_msg=leaf)


@pytest.mark.oracle
@pytest.mark.parametrize("name", CELLS)
def test_a_layer_and_its_gradients_are_those_of_torch(name):
    torch = pytest.importorskip("torch")
    cell, params = CELLS[name], drawn(CELLS[name])
    theirs = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[name](D, D, batch_first=True)

    def rows(kernel):  # [D,G,D] -> torch's [G·D,D]
        return torch.tensor(kernel.transpose(1, 2, 0).reshape(-1, D).copy())

    late = np.zeros((cell.gates, D), np.float32)
    if cell.late_bias:
        late[2] = params["recurrent_bias"]
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(rows(params["input"]))
        theirs.weight_hh_l0.copy_(rows(params["recurrent"]))
        theirs.bias_ih_l0.copy_(torch.tensor(params["bias"].reshape(-1)))
        theirs.bias_hh_l0.copy_(torch.tensor(late.reshape(-1)))
    x = torch.tensor(X, requires_grad=True)
    out = theirs(x)[0]
    out.backward(torch.tensor(DY))
    ours, pull = jax.vjp(lambda p, x: along(cell, p, x), params, X)
    close(ours, out.detach().numpy())
    gradient, dx = pull(DY)
    close(dx, x.grad.numpy(), atol=1e-4)
    for leaf, wanted in (("input", theirs.weight_ih_l0), ("recurrent", theirs.weight_hh_l0)):
        close(gradient[leaf], wanted.grad.numpy().reshape(-1, D, D).transpose(2, 0, 1), rtol=1e-4, atol=1e-4)
    close(gradient["bias"].reshape(-1), theirs.bias_ih_l0.grad.numpy(), rtol=1e-4, atol=1e-4)
    if cell.late_bias:
        close(gradient["recurrent_bias"], theirs.bias_hh_l0.grad.numpy()[2 * D :], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CELLS)
def test_one_mask_drops_the_same_features_in_all_steps_of_a_row(name):
    x = np.ones((4, 9, 64), np.float32)
    kept = np.asarray(cells.variational(x, 0.5, jax.random.key(0), axis=1))
    assert (kept == kept[:, :1]).all() and set(np.unique(kept)) == {0.0, 2.0}
    assert len({row.tobytes() for row in kept[:, 0]}) == 4


@pytest.fixture(params=["lstm", pytest.param("gru", marks=pytest.mark.exhaustive)])
def model(request):
    return FAMILIES[request.param](vocab_size=V, embed_dim=16)


TEXT = rng.integers(0, V, (B, 3 * T + 1)).astype(np.int32)


def piece(n, first=True):
    """Batch n of a text in pieces."""
    window = TEXT[:, n * T : (n + 1) * T + 1]
    positions = np.tile(np.arange(n * T, (n + 1) * T, dtype=np.int32), (B, 1))
    return {"tokens": window[:, :-1], "targets": window[:, 1:], "positions": positions}


def learner(model, rate=0.0):
    return carried(model, Causal(), optax.sgd(rate), microbatches=1, batch_size=B)


def test_a_text_in_pieces_has_the_loss_of_the_whole(model):
    taught = learner(model)
    state, update, total = taught.init(jax.random.key(0)), jax.jit(taught.update), 0.0
    for n in range(3):
        state, stats = update(state, piece(n))
        total += float(stats["loss"].total)
    whole, _ = Causal()(model, state.params, {"tokens": TEXT[:, :-1], "targets": TEXT[:, 1:]}, None)
    close(total, whole.total)


def test_a_gradient_stops_at_the_batch(model):
    """That of a piece, by its parameters, with what came before it as it is."""
    taught = learner(model, rate=1.0)
    first, _ = taught.update(taught.init(jax.random.key(0)), piece(0))
    second, _ = jax.jit(taught.update)(first, piece(1))

    def loss(params):
        out, _ = model.carry(params, piece(1), first.extra[NAME])
        chosen = jnp.take_along_axis(jax.nn.log_softmax(out.logits), piece(1)["targets"][..., None], axis=-1)
        return -chosen.mean()

    for a, b, g in zip(*map(jax.tree.leaves, (first.params, second.params, jax.grad(loss)(first.params))), strict=True):
        close(np.asarray(a) - b, g)


def test_a_row_that_begins_a_text_begins_with_nothing(model):
    taught = learner(model)
    state, update = taught.init(jax.random.key(0)), jax.jit(taught.update)
    after, _ = update(state, piece(0))
    again, fresh = update(after, piece(0))[0], after
    for a, b in zip(jax.tree.leaves(again.extra[NAME].states), jax.tree.leaves(fresh.extra[NAME].states), strict=True):
        close(a, b)
    mixed = piece(1)
    mixed["positions"][0] -= T
    changed = update(after, mixed)[0].extra[NAME].states
    plain = update(after, piece(1))[0].extra[NAME].states
    for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(plain), strict=True):
        rows = a if a.shape[0] == B else np.moveaxis(a, 1, 0)
        same = b if b.shape[0] == B else np.moveaxis(b, 1, 0)
        assert not np.allclose(rows[0], same[0])
        close(rows[1:], same[1:])


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_rows_go_on_in_the_next_batch_and_every_epoch_begins_anew(hosts, tmp_path):
    (tmp_path / "a.txt").write_text("".join(chr(32 + i * 7 % 90) for i in range(4000)))
    options = {"files": str(tmp_path / "a.txt"), "held_out": 0.0}
    data = build(
        tokenizer=tokenizers.build("bytes"), seq_len=16, batch_size=4, source="text", options=options,
        packing="contiguous", cache_dir=tmp_path / "cache",
    ).train  # fmt: skip
    steps = data.examples_per_epoch // 4
    batches = [
        {k: np.concatenate(parts) for k, parts in zip(shares[0], zip(*(s.values() for s in shares)))}  # noqa: B905
        for shares in ([data.local(n, h, hosts) for h in range(hosts)] for n in range(2 * steps))
    ]
    for n in range(1, 2 * steps):
        before, after = batches[n - 1], batches[n]
        if n % steps:
            np.testing.assert_array_equal(after["tokens"][:, 0], before["targets"][:, -1])
        np.testing.assert_array_equal(after["positions"][:, 0], (n % steps) * 16)
    seen = np.concatenate([np.stack([b["tokens"] for b in batches[:steps]], axis=1).reshape(-1)])
    np.testing.assert_array_equal(
        seen, np.concatenate([batches[steps + n]["tokens"][r] for r in range(4) for n in range(steps)])
    )


def test_what_has_no_state_or_comes_in_parts_is_refused():
    llama = Llama(vocab_size=V, num_layers=1, embed_dim=16, num_heads=2)
    assert not isinstance(llama, Carries)
    with pytest.raises(UserError, match="recurrent model"):
        learner(llama)
    with pytest.raises(UserError, match=r"train\.microbatches=2"):
        carried(Lstm(vocab_size=V), Causal(), optax.sgd(0.1), microbatches=2, batch_size=B)


def test_more_rows_than_the_text_has_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("short text " * 10)
    options = {"files": str(tmp_path / "a.txt"), "held_out": 0.0}
    with pytest.raises(UserError, match=r"data\.batch_size=64"):
        build(
            tokenizer=tokenizers.build("bytes"), seq_len=16, batch_size=64, source="text", options=options,
            packing="contiguous", cache_dir=tmp_path / "cache",
        ).whole()  # fmt: skip
