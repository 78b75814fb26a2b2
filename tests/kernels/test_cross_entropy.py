"""Chunked cross-entropy is plain cross-entropy, and its memory does not grow with the tokens."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from llm_jax.kernels.cross_entropy import chunked, plain
from llm_jax.mesh import plan as plans
from llm_jax.mesh.place import gathered
from llm_jax.nn.linear import logits
from llm_jax.planning import hlo

V, D = 19, 6


def inputs(shape):
    rng = np.random.default_rng(0)
    hidden, table = rng.normal(size=(*shape, D)), rng.normal(size=(V, D))
    return hidden.astype(np.float32), table.astype(np.float32), rng.integers(0, V, shape), rng.normal(size=shape)


@pytest.mark.parametrize("shape", [(24,), (25,), (3, 9), (2, 4), (9, 3), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_chunked_is_plain(shape, smoothing):
    """Values and gradients by hidden states and by a head that other uses share, with weights and a z-loss."""
    hidden, table, targets, weights = inputs(shape)

    def loss(function, **options):
        def total(hidden, table):
            def head(h):
                return 5.0 * jnp.tanh(h @ table.T)  # a soft-cap

            nll, log_z = function(head, hidden, targets, smoothing=smoothing, **options)
            return ((nll + 0.1 * log_z**2) * weights).sum() + jnp.square(table).sum()

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(hidden, table)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), loss(chunked, chunk=8), loss(plain)
    )


def test_the_loss_is_that_of_the_definition():
    hidden, table, targets, _ = inputs((7,))
    logits = (hidden @ table.T).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    smooth = 0.8 * np.eye(V)[targets] + 0.2 / V  # the target distribution of label smoothing
    for smoothing, wanted in ((0.0, np.eye(V)[targets]), (0.2, smooth)):
        nll, log_z = plain(lambda h: h @ table.T, hidden, targets, smoothing=smoothing)
        np.testing.assert_allclose(nll, -(wanted * np.log(p)).sum(-1), rtol=1e-5)
        np.testing.assert_allclose(log_z, np.log(np.exp(logits).sum(-1)), rtol=1e-5)


def test_equal_logits_cost_the_logarithm_of_the_vocabulary():
    nll, _ = plain(lambda h: jnp.zeros((*h.shape[:-1], V)), np.ones((3, D)), np.array([0, 5, V - 1]))
    np.testing.assert_allclose(nll, np.log(V), rtol=1e-6)


def test_memory_does_not_grow_with_the_tokens():
    """Compiled, not run. What does grow is the gradient by hidden states, which is an output."""

    def temporary_bytes(function, tokens):
        def loss(hidden, table, targets):
            return function(lambda h: h @ table.T, hidden, targets).nll.sum()

        shapes = [((tokens, 4), jnp.float32), ((2048, 4), jnp.float32), ((tokens,), jnp.int32)]
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*(jax.ShapeDtypeStruct(*s) for s in shapes)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = temporary_bytes(chunked, 8192), temporary_bytes(chunked, 16384)
    assert long < 1.1 * short
    assert long < temporary_bytes(plain, 16384) / 8


def test_on_a_mesh_each_device_keeps_to_its_own_rows():
    """No gather of hidden states, and no more logits than a chunk on any device."""
    layout = plans.build({"data": 8})
    rows = {"hidden": ((16, 32, D), ("batch", "seq", None)), "targets": ((16, 32), ("batch", "seq"))}
    hidden, targets = (
        jax.ShapeDtypeStruct(shape, jnp.int32 if name == "targets" else jnp.float32, sharding=layout.sharding(names))
        for name, (shape, names) in rows.items()
    )
    with layout.active():
        table = np.ones((997, D), np.float32)
        loss = lambda h, w, t: chunked(lambda h: logits(h, w), h, t, chunk=8).nll.sum()  # noqa: E731
        program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(hidden, table, targets).compile().as_text()
    assert "all-gather" not in program
    sizes = [np.prod([int(n) for n in lead.split(",")]) for lead in re.findall(r"f32\[([\d,]+),997\]", program)]
    assert sizes and max(sizes) <= max(8, D)


@pytest.mark.parametrize("sizes", [{"context": 4, "data": 2}, {"context": 8}], ids=str)
def test_where_texts_are_split_each_device_has_logits_of_its_own_tokens_only(sizes):
    """The same values, and nothing but the table and single numbers crosses devices."""
    hidden, table, targets, weights = inputs((4, 48))
    layout = plans.build(sizes)

    def total(hidden, targets, chunk):
        nll, _ = chunked(lambda h: logits(h, table), hidden, targets, chunk=chunk)
        return (nll * weights).sum()

    expected = jax.jit(jax.value_and_grad(total), static_argnums=2)(hidden, targets, 10**9)
    with layout.active():
        rows = [layout.sharding(("batch", "seq", None)[: x.ndim], x.shape) for x in (hidden, targets)]
        placed = jax.device_put((hidden, targets), tuple(rows))
        step = jax.jit(jax.value_and_grad(total), static_argnums=2).lower(*placed, 8).compile()
        found = step(*placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
    crossing = re.findall(
        r"= \w+\[([\d,]*)\]\S* (?:all-gather|all-reduce|all-to-all|collective-permute)", step.as_text()
    )
    assert max((np.prod([int(n) for n in s.split(",") if n]) for s in crossing), default=0) < 48
    assert "while" in step.as_text()


@pytest.mark.parametrize(
    ("sizes", "explicit"),
    [({"data": 8}, False), ({"data": 8}, True), ({"data": 2, "fsdp": 2, "tensor": 2}, False),
     ({"fsdp": 2, "context": 4}, False)], ids=str,
)  # fmt: skip
def test_on_a_mesh_the_gradient_of_the_head_is_that_of_one_device_and_summed_once(sizes, explicit):
    rows, width = (16, 32), 16
    rng = np.random.default_rng(1)
    hidden, table = (rng.normal(size=(*s, width)).astype(np.float32) for s in (rows, (24,)))
    targets = rng.integers(0, 24, rows)

    def loss(hidden, table, targets):
        nll, log_z = chunked(Partial(logits, table=gathered(table, ("vocab", "embed"))), hidden, targets, chunk=8)
        return (nll + 0.1 * log_z**2).sum()

    gradient = jax.value_and_grad(loss, argnums=(0, 1))
    expected = jax.jit(gradient)(hidden, table, targets)
    layout = plans.build(sizes, explicit=explicit)
    names = (("batch", "seq", None), ("vocab", "embed"), ("batch", "seq"))
    with layout.active():
        placed = [jax.device_put(x, layout.sharding(n)) for x, n in zip((hidden, table, targets), names, strict=True)]
        step = jax.jit(gradient).lower(*placed).compile()
        found = step(*placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, expected)
    program = hlo.parse(step.as_text())
    turns = [
        times
        for line, times in program.lines()
        if line.op in ("all-reduce", "reduce-scatter") and line.result_bytes >= table.nbytes / sizes.get("tensor", 1)
    ]
    assert turns == [1]
