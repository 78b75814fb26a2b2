"""Models whose kernels are kept in few bits: what they compute, how far off a weight may be, what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.adapt.pack import FORMS, LEVELS, Packing
from llm_jax.adapt.packed import packed
from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.core.types import Decodes
from llm_jax.mesh import plan
from llm_jax.models.classical.hmm import Hmm
from llm_jax.models.decoder.llama import Llama
from llm_jax.models.encoder.bert import Bert
from llm_jax.models.latent.vae import Vae
from llm_jax.optim.masks import layout

MODEL = Llama(vocab_size=40, num_layers=5, embed_dim=16, num_heads=4, head_dim=8, mlp_dim=24)
TOKENS = np.arange(12, dtype=np.int32)[None] % 40
KERNELS = {"blocks/mlp/up": (2, 12, 5), "blocks/attention/out": (2, 4, 8, 5), "blocks/q": (1, 6, 2, 4)}


def drawn(path):
    return np.random.default_rng(0).normal(size=KERNELS[path]).astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", KERNELS)
def test_a_channel_has_one_scale_and_no_weight_is_further_off_than_half_a_step_of_it(form, path):
    packing, kernel = Packing(form, None), drawn(path)
    read = layout(path, kernel.shape)
    parts = packing.pack(kernel, read)
    made = np.asarray(packing.unpack(parts, read))
    inputs = tuple(range(read.batch, read.batch + read.inputs))
    largest = np.abs(kernel).max(axis=inputs, keepdims=True)
    np.testing.assert_array_equal(parts["scales"], largest)
    levels = np.arange(-127, 128) / 127 if form == "int8" else np.array(LEVELS[form])
    assert (np.abs(made - kernel) <= np.diff(levels).max() / 2 * largest * (1 + 1e-5)).all()
    assert np.abs(made - kernel).max() > 1e-4
    assert parts["codes"].nbytes * {"int8": 1, "int4": 2, "nf4": 2}[form] == kernel.size


@pytest.mark.parametrize(
    ("form", "group", "embeddings"),
    [("int8", None, Packing("int8", None)), pytest.param("int4", 8, None, marks=pytest.mark.exhaustive)],
)
def test_it_computes_what_its_unpacked_kernels_do_and_goes_on_as_it_reads(form, group, embeddings):
    base = replace(MODEL, num_layers=2)
    model = packed(base, Packing(form, group), embeddings)
    assert ("embed/tokens" in model.uses) == ("head/tokens" in model.uses) == (embeddings is not None)
    params = jax.jit(model.init)(jax.random.key(0))
    assert {p: (x.shape, x.dtype) for p, x in tree.flatten(params).items()} == {
        p: (d.shape, np.dtype(d.dtype)) for p, d in model.declarations().items()
    }

    @jax.jit
    def whole(params):
        leaves = {p: x for p, x in tree.flatten(params).items() if not p.endswith(("codes", "scales"))}
        for path, use in model.uses.items():
            stored = {name: tree.flatten(params)[f"{path}/{name}"] for name in ("codes", "scales")}
            leaves[path] = use.packing.unpack(stored, use.layout)
        return base.apply(tree.unflatten(leaves), {"tokens": TOKENS}).logits

    @jax.jit
    def goes_on(params):
        """Its layers as a tuple, as sampling has them."""
        apart = params | {"blocks": tuple(jax.tree.map(lambda x, i=i: x[i], params["blocks"]) for i in range(2))}
        first, cache = model.prefill(apart, {"tokens": TOKENS[:, :8]}, model.empty_cache(1, 12))
        rest, _ = model.extend(apart, TOKENS[:, 8:], cache)
        return jnp.concatenate([first.logits, rest.logits], 1)

    wanted = whole(params)
    found = jax.jit(lambda p: model.apply(p, {"tokens": TOKENS}).logits)(params)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(goes_on(params), wanted, atol=1e-4)


def test_each_token_of_a_table_has_a_scale_and_is_rounded_by_half_a_step_of_it_at_most():
    model = packed(replace(MODEL, num_layers=1), Packing("int4"), Packing("int8", None))
    table = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32) * np.arange(40)[:, None]
    stored = model.pack("embed/tokens", table)
    assert {path: x.shape for path, x in stored.items()} == {
        "embed/tokens/codes": (40, 16),
        "embed/tokens/scales": (40, 1),
    }
    largest = np.abs(table).max(1, keepdims=True)
    off = np.abs(stored["embed/tokens/codes"] / 127 * stored["embed/tokens/scales"] - table)
    assert (off <= largest / 254 * (1 + 1e-5)).all() and off.max() > 1e-4


def test_no_whole_stack_of_kernels_is_unpacked_at_once():
    model = packed(MODEL, Packing("int8", None))
    params = jax.eval_shape(model.init, jax.random.key(0))
    with plan.Plan(unrolled=0).active():
        text = jax.jit(lambda p: model.apply(p, {"tokens": TOKENS}).logits).lower(params).as_text()
    assert "5x16x24xi8" in text and not any(shape in text for shape in ("5x16x24xf32", "5x16x4x8xf32"))


def test_an_encoder_is_packed_and_does_not_decode():
    model = packed(
        Bert(vocab_size=40, max_positions=12, num_layers=1, embed_dim=16, num_heads=2), Packing("int8", None)
    )
    assert not isinstance(model, Decodes) and isinstance(packed(MODEL, Packing("int4")), Decodes)
    logits = jax.jit(lambda key: model.apply(model.init(key), {"tokens": TOKENS}).logits)(jax.random.key(0))
    assert logits.shape == (1, 12, 40) and np.isfinite(logits).all()


@pytest.mark.parametrize(
    "model",
    [Hmm(vocab_size=40, num_states=4), Vae(vocab_size=40, num_layers=1, embed_dim=16, num_heads=2, latent_dim=3)],
    ids=["hmm", "vae"],
)
def test_what_is_no_plain_stack_of_layers_is_refused(model):
    with pytest.raises(UserError, match="--quantize=int8: "):
        packed(model, Packing("int8"))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", KERNELS)
def test_a_channel_is_rounded_as_torch_rounds_it(path):
    """Symmetric, from -127 to 127, one scale an output: torch's observer chooses the scale, and torch rounds."""
    import torch
    from torch.ao.quantization.observer import PerChannelMinMaxObserver

    kernel, packing = drawn(path), Packing("int8", None)
    read = layout(path, kernel.shape)
    parts = packing.pack(kernel, read)
    for layer in range(kernel.shape[0]):
        matrix = torch.tensor(kernel[layer].reshape(read.sizes(kernel.shape)).T.copy())
        observer = PerChannelMinMaxObserver(
            ch_axis=0, dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-127, quant_max=127
        )
        observer(matrix)
        scale, zero = observer.calculate_qparams()
        theirs = torch.quantize_per_channel(matrix, scale.double(), zero, 0, torch.qint8)
        np.testing.assert_allclose(np.ravel(parts["scales"][layer]) / 127, scale.numpy(), rtol=1e-6)
        codes = np.asarray(parts["codes"][layer]).reshape(read.sizes(kernel.shape)).T
        np.testing.assert_array_equal(codes, theirs.int_repr().numpy())
        made = np.asarray(packing.unpack(parts, read))[layer].reshape(read.sizes(kernel.shape)).T
        np.testing.assert_allclose(made, theirs.dequantize().numpy(), rtol=1e-5, atol=1e-7)
