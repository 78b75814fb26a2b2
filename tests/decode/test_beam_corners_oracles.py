"""Beams of BART and Marian, more of them than there are ids, too, beside `transformers`: the same texts and scores."""

import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.decode.beam import Beams, search

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

VOCAB, START, NEW = 31, 2, 10
SIZES = {
    "vocab_size": VOCAB, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64,
    "init_std": 0.6, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": START,
    "forced_eos_token_id": None, "forced_bos_token_id": None, "dropout": 0.0,
}  # fmt: skip
SOURCES = [[5, 9, 3, 2], [7, 4, 30, 22, 8, 2]]
SEARCHES = [
    Beams(3, 1.0, "likely"), Beams(4, 0.0, "sure"), Beams(4, 2.0, "full"),
    Beams(VOCAB + 4, 1.0, "likely"),
]  # fmt: skip
STOPPING = {"full": True, "likely": False, "sure": "never"}
STOPS = [2, 6, 12, 17, 23]


@pytest.mark.parametrize("family", ["Bart", "Marian"])
def test_they_find_the_texts_of_transformers(family, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(2)
    config = getattr(transformers, f"{family}Config")(**SIZES)
    foreign = getattr(transformers, "BartForConditionalGeneration" if family == "Bart" else "MarianMTModel")(config)
    foreign.eval().save_pretrained(tmp_path / "source")
    assert main(["import", str(tmp_path / "source"), f"--workdir={tmp_path / 'run'}"]) == 0
    run, lengths = open_run(tmp_path / "run"), set()
    for beams in SEARCHES:
        ours = search(
            run.model, run.params(), [[START]] * 2, sources=SOURCES, max_new_tokens=NEW, beams=beams, num=3,
            stop_ids=STOPS,
        )  # fmt: skip
        for source, texts in zip(SOURCES, ours, strict=True):
            found = foreign.generate(
                torch.tensor([source]), num_beams=beams.width, do_sample=False, num_return_sequences=3,
                length_penalty=beams.length_penalty, max_new_tokens=NEW, early_stopping=STOPPING[beams.stopping],
                eos_token_id=STOPS, bad_words_ids=None, return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
            rows = [row[1:] for row in found.sequences.tolist()]
            ends = [next((i + 1 for i, t in enumerate(row) if t in STOPS), NEW) for row in rows]
            assert [text.ids for text in texts] == [row[:n] for row, n in zip(rows, ends, strict=True)], beams
            np.testing.assert_allclose([t.score for t in texts], found.sequences_scores.tolist(), rtol=2e-4, atol=2e-5)
            lengths |= {len(text.ids) for text in texts}
    assert min(lengths) < 4 and max(lengths) > 4
