"""What holds for every family of `MODELS`: see the fixtures for the sizes."""

import sys
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import lookup
from llm_jax.mesh import plan
from llm_jax.mesh import remat as remats
from llm_jax.models import MODELS
from llm_jax.run.config import construct

TOKENS = np.random.default_rng(1).permutation(40)[:24].reshape(2, 12).astype(np.int32)  # all different
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5)


@lru_cache
def logits(model):
    """The jitted (params, batch, key) -> logits, with no plan active."""
    return jax.jit(lambda params, batch, key=None: model.apply(params, batch, key=key).logits)


def losses(model):
    """A jitted (loss, gradient) that every part of the model enters."""

    def loss(params, batch, key=None):
        out = model.apply(params, batch, key=key)
        added = sum(m.value for m in out.aux.values()) + sum(jnp.square(x).mean() for x in out.extras.values())
        return jnp.square(jax.nn.log_softmax(out.logits)).mean() + added

    return jax.jit(jax.value_and_grad(loss))


def trees_close(first, second):
    """Equal to float32 rounding, relative to the largest element of each leaf; key biases have no other gradient."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(second))
    for path, a in tree.flatten(first).items():
        b = np.asarray(tree.flatten(second)[path])
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max() + 1e-6 * largest, err_msg=path)


@pytest.mark.rotates(12)
def test_tokens_alone_give_float32_logits(model, params):
    out = logits(model)(params, {"tokens": TOKENS})
    assert out.shape == (2, 12, model.vocab_size) and out.dtype == jnp.float32
    assert np.isfinite(out).all()


@pytest.mark.rotates(12)
def test_int64_tokens_of_numpy_are_legal(model, params):
    out = logits(model)(params, {"tokens": TOKENS})
    for same in ({"tokens": TOKENS.astype(np.int64)}, {"tokens": jnp.asarray(TOKENS)}):
        np.testing.assert_array_equal(logits(model)(params, same), out)


@pytest.mark.rotates(12)
@pytest.mark.of("decoder")
def test_no_hidden_state_depends_on_a_later_token(model, params):
    """By gradient: all tokens differ, so that a row of the embedding table belongs to one place of the text."""
    T, direction = 12, np.random.default_rng(2).normal(size=16).astype(np.float32)

    def projected(table):
        embed = params["embed"] | {"tokens": table}
        return model.apply(params | {"embed": embed}, {"tokens": TOKENS[:1]}).hidden[0] @ direction

    by_row = np.asarray(jax.jit(jax.jacrev(projected))(jnp.asarray(params["embed"]["tokens"])))[:, TOKENS[0]]
    reached = np.abs(by_row).max(-1) > 0  # [T hidden states, T tokens]
    np.testing.assert_array_equal(reached, np.tri(T, dtype=bool))


@pytest.mark.rotates(4)
@pytest.mark.of("causal")
def test_no_logit_depends_on_a_later_token(model, params):
    """By value: whatever follows position t, the logits up to t are the same bits."""
    run, before = logits(model), logits(model)(params, {"tokens": TOKENS})
    for t in (1, 6, 11):
        changed = TOKENS.copy()
        changed[:, t:] = (changed[:, t:] + 7) % 40
        after = run(params, {"tokens": changed})
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert not np.allclose(after[:, t], before[:, t])


@pytest.mark.rotates(4)
@pytest.mark.of("packed")
def test_packing_and_padding_change_no_logit(model, params):
    """Two texts in one row, or one with padding on either side or on both, give the logits that each has alone."""
    a, b, pad = TOKENS[0, :6], TOKENS[1, :6], np.array([5, 9, 9, 5, 1, 2], np.int32)
    one, two, none = np.full(6, 1), np.full(6, 2), np.zeros(6, int)
    rows = {
        "packed": ((a, b), (one, two)),
        "padded right": ((a, pad), (one, none)),
        "padded left": ((pad, b), (none, one)),
        "padded between": ((a[:3], pad, b[:3]), (one[:3], none, two[:3])),
        "split from its start": ((pad[:4], a, b[:2]), (none[:4], one, two[:2])),
    }
    batch = {
        "tokens": np.stack([np.concatenate(tokens) for tokens, _ in rows.values()]),
        "segments": np.stack([np.concatenate(segments) for _, segments in rows.values()]).astype(np.int32),
    }
    out = dict(zip(rows, logits(model)(params, batch), strict=True))
    alone_a, alone_b = logits(model)(params, {"tokens": np.stack([a, b])})
    close(out["packed"][:6], alone_a)
    close(out["packed"][6:], alone_b)
    close(out["padded right"][:6], alone_a)
    close(out["padded left"][6:], alone_b)
    close(out["padded between"][:3], alone_a[:3])
    close(out["padded between"][9:], alone_b[:3])
    close(out["split from its start"][4:10], alone_a)
    close(out["split from its start"][10:], alone_b[:2])


@pytest.mark.rotates(12)
def test_default_segments_and_positions_are_those_of_one_text(model, params):
    spelled = {
        "tokens": TOKENS,
        "segments": np.ones((2, 12), np.int32),
        "positions": np.tile(np.arange(12, dtype=np.int32), (2, 1)),
    }
    close(logits(model)(params, spelled), logits(model)(params, {"tokens": TOKENS}))


@pytest.mark.rotates(12)
def test_jitted_is_eager(model, params):
    close(logits(model)(params, {"tokens": TOKENS}), model.apply(params, {"tokens": TOKENS}).logits)


@pytest.mark.rotates(12)
@pytest.mark.of("deep")
def test_scanned_is_unrolled(make, draw):
    """With dropout too: the same draws in the same layers."""
    model = make(dropout=0.25)
    params, results = draw(model), []
    for deepest in (0, 99):
        with plan.Plan(unrolled=deepest).active():
            results.append(losses(model)(params, {"tokens": TOKENS}, jax.random.key(3)))
    trees_close({"all": results[0]}, {"all": results[1]})


@pytest.mark.rotates(12)
@pytest.mark.of("deep")
def test_the_program_of_scanned_layers_does_not_grow_with_their_number(make):
    def length(layers):
        model = make(num_layers=layers)
        params = jax.eval_shape(model.init, jax.random.key(0))
        with plan.Plan(unrolled=0).active():
            return jax.jit(lambda p: model.apply(p, {"tokens": TOKENS}).logits).lower(params).as_text().count("\n")

    assert length(6) == length(12)  # whole repeats of every pattern


@pytest.mark.rotates(12)
@pytest.mark.of("deep")
def test_what_is_recomputed_changes_no_gradient(model, params):
    results = {}
    for remat in (*remats.WHOLE, "attention,mlp_gate,mlp_up,ssm"):
        with plan.Plan(remat=remat).active():
            results[remat] = losses(model)(params, {"tokens": TOKENS})
    for found in results.values():
        trees_close({"all": found}, {"all": results["none"]})


@pytest.mark.rotates(12)
@pytest.mark.of("deep")
def test_dropout_needs_a_key_and_follows_it(make, draw):
    model = make(dropout=0.5)
    params, run = draw(model), logits(model)
    without = run(params, {"tokens": TOKENS})
    first, again = (run(params, {"tokens": TOKENS}, jax.random.key(1)) for _ in range(2))
    other = run(params, {"tokens": TOKENS}, jax.random.key(2))
    close(without, logits(make())(params, {"tokens": TOKENS}))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, without) and not np.allclose(first, other)


@pytest.mark.rotates(12)
@pytest.mark.of("deep")
def test_bfloat16_stays_near_float32(model, params):
    def both(params, batch):
        out = model.apply(params, batch)
        return jnp.square(out.logits).mean(), (out.hidden, out.logits)

    exact = np.asarray(logits(model)(params, {"tokens": TOKENS}))
    with plan.Plan(compute_dtype=jnp.bfloat16).active():
        gradient, (hidden, out) = jax.jit(jax.grad(both, has_aux=True))(params, {"tokens": TOKENS})
    assert hidden.dtype == jnp.bfloat16 and out.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    errors = np.abs(np.asarray(out) - exact).max(-1) / np.abs(exact).max()
    routed = any("/router/" in path for path in tree.flatten(params))  # a token between two experts may go to the other
    assert 1e-5 < np.quantile(errors, 0.75 if routed else 1.0) < 0.05  # eight bits of mantissa


def test_init_returns_what_is_declared(model):
    declared = {path: d.shape for path, d in model.declarations().items()}
    made = {path: leaf.shape for path, leaf in tree.flatten(jax.eval_shape(model.init, jax.random.key(0))).items()}
    assert made == declared
    assert all(len(d.axes) == len(d.shape) for d in model.declarations().values())
    assert all(n is None or n in plan.RULES for d in model.declarations().values() for n in d.axes)


@pytest.mark.rotates(4)
@pytest.mark.of("deep")
def test_every_parameter_matters(model, params, source):
    """A declared parameter on which neither a logit nor what the model adds to its loss depends is dead weight."""
    batch = {"tokens": TOKENS, "segments": np.repeat([[1, 2]], 6, axis=1).repeat(2, axis=0)}
    gradient = losses(model)(params, batch | source)[1]
    rounding = ("key_bias",)  # softmax is blind to what all keys share: zero but for rounding
    dead = [p for p, g in tree.flatten(gradient).items() if not np.abs(g).max() > 1e-7 and not p.endswith(rounding)]
    assert not dead


@pytest.mark.parametrize(
    ("family", "preset", "fields", "parameters"),
    [
        ("gpt2", "124m", {"vocab_size": 50_257, "max_positions": 1024}, 124_439_808),
        ("gpt2", "1.5b", {"vocab_size": 50_257, "max_positions": 1024}, 1_557_611_200),
        ("llama", "7b", {"vocab_size": 32_000}, 6_738_415_616),
        ("llama", "8b", {"vocab_size": 128_256}, 8_030_261_248),
        ("llama", "13b", {"vocab_size": 32_000}, 13_015_864_320),
        ("llama", "70b", {"vocab_size": 32_000}, 68_976_648_192),
        ("qwen2", "0.5b", {"vocab_size": 151_936}, 494_032_768),
        ("qwen2", "1.5b", {"vocab_size": 151_936}, 1_543_714_304),
        ("qwen2", "7b", {"vocab_size": 152_064}, 7_615_616_512),
        ("qwen2", "72b", {"vocab_size": 152_064}, 72_706_203_648),
        ("qwen3", "0.6b", {"vocab_size": 151_936}, 596_049_920),
        ("qwen3", "8b", {"vocab_size": 151_936}, 8_190_735_360),
        ("qwen3", "32b", {"vocab_size": 151_936}, 32_762_123_264),
        ("mistral", "7b", {"vocab_size": 32_000}, 7_241_732_096),
        ("mistral", "7b-v0.3", {"vocab_size": 32_768}, 7_248_023_552),
        ("olmo2", "1b", {"vocab_size": 100_352}, 1_484_916_736),
        ("olmo2", "7b", {"vocab_size": 100_352}, 7_298_617_344),
        ("olmo2", "13b", {"vocab_size": 100_352}, 13_716_198_400),
        ("olmo2", "32b", {"vocab_size": 100_352}, 32_234_279_936),
        ("phi3", "mini", {"vocab_size": 32_064}, 3_821_079_552),
        ("phi3", "medium", {"vocab_size": 32_064}, 13_960_238_080),
        ("gemma", "2b", {"vocab_size": 256_000}, 2_506_172_416),
        ("gemma", "7b", {"vocab_size": 256_000}, 8_537_680_896),
        ("gemma2", "2b", {"vocab_size": 256_000}, 2_614_341_888),
        ("gemma2", "9b", {"vocab_size": 256_000}, 9_241_705_984),
        ("gemma2", "27b", {"vocab_size": 256_000}, 27_227_128_320),
        ("gemma3", "270m", {"vocab_size": 262_144}, 268_098_176),
        ("gemma3", "1b", {"vocab_size": 262_144}, 999_885_952),
        ("gpt_neox", "70m", {"vocab_size": 50_304}, 70_426_624),
        ("gpt_neox", "160m", {"vocab_size": 50_304}, 162_322_944),
        ("gpt_neox", "410m", {"vocab_size": 50_304}, 405_334_016),
        ("gpt_neox", "1b", {"vocab_size": 50_304}, 1_011_781_632),
        ("gpt_neox", "1.4b", {"vocab_size": 50_304}, 1_414_647_808),
        ("gpt_neox", "2.8b", {"vocab_size": 50_304}, 2_775_208_960),
        ("gpt_neox", "6.9b", {"vocab_size": 50_432}, 6_857_302_016),
        ("gpt_neox", "12b", {"vocab_size": 50_688}, 11_846_072_320),
        ("gpt_neox", "20b", {"vocab_size": 50_432}, 20_554_567_680),
        ("mamba2", "130m", {"vocab_size": 50_288}, 128_989_632),
        ("mamba2", "370m", {"vocab_size": 50_288}, 368_346_624),
        ("mamba2", "780m", {"vocab_size": 50_288}, 780_161_280),
        ("mamba2", "1.3b", {"vocab_size": 50_288}, 1_343_757_312),
        ("mamba2", "2.7b", {"vocab_size": 50_288}, 2_702_599_680),
        ("mamba2", "7b", {"vocab_size": 32_768}, 7_285_403_648),
        ("mixtral", "8x7b", {"vocab_size": 32_000}, 46_702_792_704),
        ("mixtral", "8x22b", {"vocab_size": 32_768}, 140_630_071_296),
        ("qwen3_moe", "30b-a3b", {"vocab_size": 151_936}, 30_532_122_624),
        ("qwen3_moe", "235b-a22b", {"vocab_size": 151_936}, 235_093_634_560),
        ("gpt_oss", "20b", {"vocab_size": 201_088}, 20_914_757_184),
        ("gpt_oss", "120b", {"vocab_size": 201_088}, 116_829_156_672),
        ("deepseek_v3", "671b", {"vocab_size": 129_280}, 671_026_419_200),
        ("deepseek_v3", "16b", {"vocab_size": 163_840}, 15_960_110_208),
    ],
)
def test_presets_have_the_published_number_of_parameters(family, preset, fields, parameters):
    """Counted from the declarations: nothing is allocated. The numbers are those of the published checkpoints."""
    make = lookup(MODELS, family, "model.name")
    model = construct(make, fields | sys.modules[make.__module__].PRESETS[preset])
    assert sum(int(np.prod(d.shape, dtype=np.int64)) for d in model.declarations().values()) == parameters
