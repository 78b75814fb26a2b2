"""Texts in, texts out of an encoder-decoder: the prompt is the source. Beams and draws exclude each other."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from llm_jax.cli import main
from llm_jax.core.table import UserError
from llm_jax.decode.beam import Beams
from llm_jax.models.seq2seq.t5 import T5
from llm_jax.run.evaluate import written
from llm_jax.run.open_run import OpenRun
from llm_jax.run.parts.sampling import Sample
from llm_jax.run.texts.continued import continuations, pieces, searched
from llm_jax.run.texts.prompts import asked
from llm_jax.text import tokenizers

WORDS = tokenizers.build("bytes", {})
MODEL = T5(WORDS.vocab_size, 1, embed_dim=16, num_heads=2, mlp_dim=16, buckets=8, furthest=12, gated=True, tied=False)
PARAMS = jax.tree.map(lambda x: 1.3 * x, MODEL.init(jax.random.key(3)))
TEXTS = ["a short one", "one that is a good deal longer than 32 bytes", "b"]
END = WORDS.eos_id


def texts(sample, prompts=TEXTS):
    return continuations(MODEL, PARAMS, WORDS, Sample(**{"prompts": prompts, "tokens": 8, **sample}), seed=0)


def test_a_prompt_is_the_source_and_the_decoder_starts_as_its_data_do():
    given = asked(MODEL, WORDS, ["ab", "c"])
    assert given == {"prompts": [[END], [END]], "sources": [[97, 98, END], [99, END]]}
    assert asked(MODEL, WORDS, ["c"], [5, 6])["prompts"] == [[5, 6]]
    with pytest.raises(UserError, match="the prompt is empty"):
        asked(MODEL, WORDS, ["ab", ""])


@pytest.mark.parametrize("sample", [{"temperature": 0.0}, {"beams": 3}])
def test_what_is_written_does_not_depend_on_the_other_sources(sample):
    together = texts(sample)
    assert together == [text for prompt in TEXTS for text in texts(sample, [prompt])]
    assert len({text.split("=> ")[1] for text in together}) > 1
    assert all(t.startswith(f"{p}\n=> ") for t, p in zip(together, TEXTS, strict=True))


def test_streamed_and_searched_texts_are_those_of_samples_while_training():
    greedy, beams = Sample(tokens=8, temperature=0.0), Sample(tokens=8, beams=3)
    made = pieces(MODEL, PARAMS, WORDS, TEXTS[1], greedy, seed=0, num=1, stops=[END])
    assert TEXTS[1] + "\n=> " + "".join(piece for _, piece in made) == texts({"temperature": 0.0})[1]
    found = searched(MODEL, PARAMS, WORDS, TEXTS, beams, stops=[END], num=2)
    assert [f"{p}\n=> {best}" for p, (best, _) in zip(TEXTS, found, strict=True)] == texts({"beams": 3})


def test_held_out_pairs_are_written_as_their_sources_are():
    """Padded rows of a loader; a row without weight is padding of the last batch."""
    sources = [[*text.encode(), END] for text in TEXTS]
    batch = {name: np.zeros((4, 50), np.int32) for name in ("source_tokens", "source_segments")}
    batch |= {name: np.zeros((4, 8), np.int32) for name in ("tokens", "targets", "segments", "weights")}
    for row, ids in enumerate(sources):
        batch["source_tokens"][row, : len(ids)], batch["source_segments"][row, : len(ids)] = ids, 1
        batch["tokens"][row, :3], batch["targets"][row, :3] = [END, 104, 105], [104, 105, END]
        batch["segments"][row, :3] = batch["weights"][row, :3] = 1
    loader = SimpleNamespace(once=lambda rows, limit: iter([batch]))
    for beams, sample in ((None, {"temperature": 0.0}), (Beams(3), {"beams": 3})):
        made = list(written(MODEL, PARAMS, WORDS, loader, 4, beams=beams, stops=[END]))
        assert [f"{each.source}\n=> {each.text}" for each in made] == texts(sample)
        assert [each.reference for each in made] == ["hi"] * 3


def test_a_decoder_starts_as_generation_config_says(tmp_path):
    run = OpenRun.__new__(OpenRun)
    run.workdir = SimpleNamespace(generation=tmp_path / "generation_config.json")
    assert run.starts == []
    for given, starts in (({"decoder_start_token_id": 2, "forced_bos_token_id": 0}, [2, 0]), ({"bos_token_id": 1}, [])):
        run.workdir.generation.write_text(json.dumps(given))
        assert run.starts == starts


SECTIONS = {
    "beams=4 temperature=1.0": r"sample\.temperature=1\.0 says how tokens are drawn, and sample\.beams=4",
    "beams=4 top_k=3": r"sample\.top_k=3 says how tokens are drawn",
    "beams=0": r"sample\.beams=0 must be",
    "length_penalty=2.0": r"sample\.length_penalty=2\.0 is of beam search; set sample\.beams too",
    "beams=2 stopping=soon": r"sample\.stopping='soon' must be one of",
}


@pytest.mark.parametrize("fields", SECTIONS)
def test_a_section_draws_or_searches(fields):
    given = {
        name: value if value == "soon" else json.loads(value) for name, value in (f.split("=") for f in fields.split())
    }
    with pytest.raises(UserError, match=SECTIONS[fields]):
        Sample(**given)


FLAGS = {
    "sample --beams=4 --temperature=0.8": "leave out --temperature, or --beams",
    "sample --beams=4 --greedy": "leave out --greedy",
    "sample --beams=4 --seed=0": "leave out --seed",
    "sample --length_penalty=1 --to=x": "leave out --to",
    "sample --beams=2 --num=3": "--num=3 is above --beams=2",
    "sample --beams=0": "sample.beams=0 must be",
    "sample --beams=2 --stopping=x": "full, likely, sure",
    "sample --length_penalty=nan": "sample.length_penalty=nan",
    "sample --beams=4": "is not a directory",
    "evaluate --beams=2": "give --generate too",
    "evaluate --generate --length_penalty=2": "give --beams too",
    "evaluate --generate --pseudo": "give one of them",
    "evaluate --generate --beams=0": "sample.beams=0 must be",
    "evaluate --generate --tokens=0": "evaluate.tokens=0",
    "evaluate --generate --tokenize=x": "--tokenize='x' must be one of",
    "evaluate --generate": "is not a directory",
}


@pytest.mark.parametrize("words", FLAGS)
def test_flags_that_do_not_go_together_are_named(words, capsys):
    verb, *flags = words.split()
    prompt = ["--prompt=x"] if verb == "sample" else []
    assert main([verb, "--workdir=/nowhere/run", *prompt, *flags]) == 2
    message = capsys.readouterr().err
    assert FLAGS[words] in message and message.count("\n") == 1
