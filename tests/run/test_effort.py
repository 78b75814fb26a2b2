"""The FLOPs of a run's training beside those that the compiler counts, where a row is more than one text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.adapt import ADAPTERS
from llm_jax.adapt.adapted import adapted
from llm_jax.adapt.headed import Headed
from llm_jax.adapt.prefixed import Prefixed
from llm_jax.core import tree
from llm_jax.core.table import lookup
from llm_jax.cost import flops
from llm_jax.mesh import plan
from llm_jax.models.decoder.llama import Llama
from llm_jax.models.encoder.bert import Bert
from llm_jax.models.seq2seq.bart import Bart
from llm_jax.models.seq2seq.t5 import T5
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.labelled.classification import Classification
from llm_jax.objectives.preference.alone import Orpo
from llm_jax.objectives.preference.answers import answers
from llm_jax.objectives.preference.referred import Dpo
from llm_jax.objectives.prefix import Prefix
from llm_jax.objectives.seq2seq import Seq2Seq
from llm_jax.objectives.several import Several
from llm_jax.run.parts.effort import flops_per_token, seen
from llm_jax.text import tokenizers

T = 128
MODEL = Llama(vocab_size=512, num_layers=2, embed_dim=128, num_heads=4, mlp_dim=384, attention="plain")


def counted(function, *arguments):
    analysis = jax.jit(function).lower(*arguments).cost_analysis()
    return (analysis[0] if isinstance(analysis, list) else analysis)["flops"] / (2 * T)


@pytest.mark.parametrize("objective", [Orpo(), Dpo()])
def test_both_answers_count_and_what_the_reference_makes_of_them(objective):
    params = tree.unflatten({p: jax.ShapeDtypeStruct(d.shape, "float32") for p, d in MODEL.declarations().items()})
    names = [f"{side}{name}" for side in ("", "rejected_") for name in ("tokens", "targets")]
    batch = {name: jax.ShapeDtypeStruct((2, T), jnp.int32) for name in names}
    with plan.Plan(unrolled=99).active():
        whole = counted(jax.grad(lambda p, b: objective(MODEL, p, b, None)[0].total), params, batch)
        if isinstance(objective, Dpo):
            whole += counted(lambda p, b: answers(MODEL, p, b, None)[:2], params, batch)
    assert flops_per_token(MODEL, objective, T, masked=False) == pytest.approx(whole, rel=0.05)


def test_attention_counts_the_pairs_that_masks_leave():
    """Of prefixes, those of rows as the objective cuts them."""
    declared = MODEL.declarations()
    whole = flops.per_token(declared, T, seen=flops.WHOLE) - 6 * flops.matmul_parameters(declared)

    def share(model, objective):
        return (flops_per_token(model, objective, T) - 6 * flops.matmul_parameters(declared)) / whole

    both, along = Prefix(bidirectional=True), np.arange(T)
    rows = {"tokens": np.zeros((2000, T), int), "targets": np.zeros((2000, T), int)}
    early = both.transform(tokenizers.build("bytes"), T, 0)(rows, np.arange(2000))["prefix"]
    pairs = (along <= along[:, None]) | (early[:, None] & early[:, :, None])
    assert share(MODEL, both) == share(Prefixed(MODEL), both) == pytest.approx(pairs.mean(), rel=0.01)
    assert share(MODEL, Prefix()) == share(Headed(MODEL, ("a",)).base, Causal()) == pytest.approx(0.5)
    encoder = Bert(vocab_size=512, num_layers=2, embed_dim=128, num_heads=4, max_positions=T)
    assert (seen(encoder, Causal()), seen(Headed(encoder, ("a",)), Causal())) == (1, 1)
    assert seen(Headed(MODEL, ("a",)), Classification()) == 0.5


def test_what_is_frozen_has_no_gradient_and_labels_need_no_table():
    declared = MODEL.declarations()
    assert flops_per_token(MODEL, Causal(), T) == flops.per_token(declared, T) == 3 * flops.forward(declared, T)
    beside = adapted(MODEL, lookup(ADAPTERS, "lora", "")(), ("attention/query$",))
    kernels = flops.matmul_parameters(declared) - 2 * 128 * 128
    assert flops_per_token(beside, Causal(), T) == flops.per_token(declared, T) - 2 * kernels
    headed = Headed(MODEL, ("a", "b"))
    table = 6 * 512 * 128
    assert flops_per_token(headed, Classification(), T) == flops.per_token(headed.declarations(), T) - table


@pytest.mark.parametrize(("family", "more"), [(T5, {}), (Bart, {"max_positions": T})])
def test_an_encoder_decoder_reads_its_source_whole_and_only_its_own_text_from_left_to_right(family, more):
    """Of three attentions that are alike one is halved."""
    sizes = {"vocab_size": 512, "num_layers": 2, "embed_dim": 128, "num_heads": 4} | more
    even, deep = family(**sizes), family(**sizes, encoder_layers=6)
    assert seen(even, Seq2Seq()) == pytest.approx((1 + 1 + 0.5) / 3)
    assert seen(deep, Seq2Seq()) == pytest.approx((3 + 1 + 0.5) / 5)
    halved = flops_per_token(even, Seq2Seq(), T, masked=False) - flops_per_token(even, Seq2Seq(), T)
    assert halved == 12 * 2 * 128 * T / 2


def test_every_task_reads_every_row():
    several = Several(({"name": "causal"}, {"name": "prefix", "bidirectional": True, "weight": 0.1}))
    each = [flops_per_token(MODEL, objective, T) for objective in (Causal(), Prefix(bidirectional=True))]
    assert flops_per_token(MODEL, several, T) == sum(each)
    assert seen(MODEL, several) == pytest.approx((1 / 2 + 2 / 3) / 2)
