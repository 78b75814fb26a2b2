"""T5, BART and Marian learn as those of `transformers` do on torch: from the same weights, by the same batches."""

import dataclasses

import jax
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import lookup
from llm_jax.data.corrupt import rows, spans
from llm_jax.interop import configs
from llm_jax.interop.names import NAMES, to_hf
from llm_jax.learn.gradient import descent
from llm_jax.models import MODELS
from llm_jax.objectives.span import Span
from llm_jax.optim.transform import transformation

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

PAD, END, START, FIRST, WORDS, SENTINELS = 0, 1, 2, 4, 60, 8
STEPS, ROWS, LENGTH, RATE, DECAY = 12, 4, 24, 3e-3, 0.1
SIZES = {"vocab_size": WORDS + SENTINELS, "num_layers": 2, "embed_dim": 32, "num_heads": 4, "mlp_dim": 48}
CASES = {
    "T5": ("t5", {}),
    "T5 v1.1": ("t5", {"gated": True, "tied": False}),
    "BART": ("bart", {"max_positions": 40}),
    "Marian": ("marian", {}),
}
FOREIGN = {"t5": "T5ForConditionalGeneration", "bart": "BartForConditionalGeneration", "marian": "MarianMTModel"}
NO_DECAY = ("bias", "norm.weight", "layer_norm.weight", "layernorm_embedding.weight")  # but T5's table of distances


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def transformers(torch):
    return pytest.importorskip("transformers")


def batches():
    """Texts with hidden spans, of several lengths: a chain of words, each followed by one of two."""
    rng, last = np.random.default_rng(0), WORDS + SENTINELS - 1
    around, widths = rows.Ends(START, END), [n + 1 for n in spans.widths(LENGTH, 0.15, 3.0)]
    for _ in range(STEPS):
        ids = np.cumsum(np.concatenate([rng.integers(0, 50, (ROWS, 1)), rng.integers(1, 3, (ROWS, LENGTH - 1))], 1), 1)
        sizes = rng.integers(LENGTH // 2, LENGTH + 1, ROWS)
        text = rows.Texts((FIRST + ids % (WORDS - FIRST)).astype(np.int32), sizes)
        hidden = spans.mask(rng.random((ROWS, 2, LENGTH)), sizes, spans.amount(sizes, 0.15, 3.0))
        yield rows.pair({"targets": text.ids}, *spans.corrupt(text, hidden, last), around, tuple(widths))


def foreign(torch, transformers, model, family, params):
    """The model of `transformers` with the same values; of its own only what no value of ours says."""
    shapes = {path: d.shape for path, d in model.declarations().items()}
    config = configs.write(family, dataclasses.asdict(model), shapes, context=40, dtype="float32")
    for name in ("architectures", "model_type", "torch_dtype", "dtype"):
        config.pop(name, None)
    cls = getattr(transformers, FOREIGN[family])
    theirs = cls(cls.config_class(**config | {"pad_token_id": PAD}, attn_implementation="eager")).train()
    if not getattr(model, "tied", True):
        theirs.lm_head.weight = torch.nn.Parameter(torch.zeros_like(theirs.shared.weight))
    if hasattr(theirs, "final_logits_bias"):  # which transformers does not learn
        del theirs.final_logits_bias
        theirs.final_logits_bias = torch.nn.Parameter(torch.zeros(1, model.vocab_size))
    values = dict(to_hf(lookup(NAMES, family, "family"), shapes, tree.flatten(params).items()))
    learnt = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    assert learnt.keys() <= values.keys()
    with torch.no_grad():
        for name, p in learnt.items():
            p.copy_(torch.tensor(np.asarray(values[name])).reshape(p.shape))
    return theirs, learnt


@pytest.mark.parametrize("case", CASES)
def test_both_learn_alike_step_by_step(torch, transformers, case):
    family, fields = CASES[case]
    model = lookup(MODELS, family, "model.name")(**SIZES | fields)
    learner = descent(model, Span(sentinels=SENTINELS), transformation("adamw", RATE, weight_decay=DECAY, b2=0.95))
    state, update = learner.init(jax.random.key(0)), jax.jit(learner.update)
    theirs, learnt = foreign(torch, transformers, model, family, jax.tree.map(np.asarray, state.params))
    plain = [p for n, p in learnt.items() if n.endswith(NO_DECAY) and "relative" not in n]
    groups = [{"params": [p for p in learnt.values() if all(p is not q for q in plain)]}]
    groups.append({"params": plain, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=DECAY)
    ours, others = [], []
    for batch in batches():
        state, stats = update(state, batch)
        ours.append(float(stats["loss"].value))
        given = {name: torch.tensor(np.asarray(a)).long() for name, a in batch.items()}
        loss = theirs(
            input_ids=given["source_tokens"], attention_mask=given["source_segments"],
            decoder_input_ids=given["tokens"], labels=given["targets"].masked_fill(given["weights"] == 0, -100),
        ).loss  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        others.append(loss.item())
    np.testing.assert_allclose(ours, others, rtol=1e-3)
    assert ours[-1] < ours[0] - 0.2
