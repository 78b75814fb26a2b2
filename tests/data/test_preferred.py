"""The form `preferences`: two answers to a prompt side by side, as texts or conversations, and what is refused."""

import pytest

from llm_jax.core.table import UserError
from llm_jax.data.examples import forms
from llm_jax.data.published import sentiment
from tests.data import read
from tests.data.read import BYTES, write

END = BYTES.eos_id
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}{% if add_generation_prompt %}a{% endif %}"


def rows(folder, row, *, template=None, seq_len=8, **options):
    path = write(folder / "a.jsonl", [{"prompt": "p", "chosen": "c", "rejected": "r"}, row])
    return read.rows(path, {"name": "preferences", **options}, seq_len, folder, template=template)


def learnt(batch, row, prefix=""):
    """What a row reads, and what it learns."""
    real, told = batch[f"{prefix}segments"][row] > 0, batch[f"{prefix}weights"][row] > 0
    return batch[f"{prefix}tokens"][row][real].tolist(), batch[f"{prefix}targets"][row][told].tolist()


def test_texts_stand_after_their_prompt_and_only_they_are_learnt(tmp_path):
    batch = rows(tmp_path, {"prompt": "ab", "chosen": "xyz", "rejected": "q"})
    assert learnt(batch, 1) == ([*b"ab\nxyz"], [*b"xyz", END])
    assert learnt(batch, 1, "rejected_") == ([*b"ab\nq"], [*b"q", END])
    assert {n: (v.dtype.name, v.shape) for n, v in batch.items()} == {
        n: (v.dtype.name, (2, 8)) for n, v in forms.build({"name": "preferences"}).blank(8).items()
    }


def test_conversations_are_written_by_the_template_and_their_last_answers_are_learnt(tmp_path):
    said = [{"role": "user", "content": "h"}, {"role": "assistant", "content": "i"}, {"role": "user", "content": "j"}]
    last = [[{"role": "assistant", "content": text}] for text in ("xy", "z")]
    apart = {"prompt": said, "chosen": last[0], "rejected": last[1]}
    whole = {"chosen": [*said, *last[0]], "rejected": [*said, *last[1]]}
    for row in (apart, whole):
        batch = rows(tmp_path, row, template=TEMPLATE, seq_len=10)
        assert learnt(batch, 0) == ([*b"upa"], [*b"c"])
        assert learnt(batch, 1) == ([*b"uhaiujax"], [*b"xy"])
        assert learnt(batch, 1, "rejected_") == ([*b"uhaiuja"], [*b"z"])


def test_pairs_that_are_too_long_are_left_out_or_refused(tmp_path):
    row = {"prompt": "ab", "chosen": "x", "rejected": "y" * 9}
    assert len(rows(tmp_path, row, long="drop")["tokens"]) == 1
    with pytest.raises(UserError, match=r"a\.jsonl:2: 13 tokens are more than data\.seq_len \+ 1=9"):
        rows(tmp_path, row)
    with pytest.raises(UserError, match="would compare parts of answers"):
        rows(tmp_path, row, long="cut")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, r"a\.jsonl:2: no field 'rejected'"),
        ({"prompt": "a", "chosen": 3, "rejected": "c"}, r"a\.jsonl:2: field 'chosen' is of type int"),
        ({"chosen": "b", "rejected": "c"}, r"a\.jsonl:2: no field 'prompt'"),
        ({"prompt": "a", "chosen": [{"role": "user", "content": "b"}], "rejected": "c"}, "'user', no answer"),
        ({"prompt": [{"role": "user"}], "chosen": "b", "rejected": "c"}, r"prompt\[0\]\.content must be a text"),
        ({"prompt": [{"role": "system", "content": "s"}], "chosen": "b", "rejected": "c"}, "without a chat template"),
    ],
)
def test_a_record_that_does_not_fit_is_named(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        rows(tmp_path, row)


def test_sentences_of_films_are_in_one_pair_each_with_the_better_one_first(tmp_path, monkeypatch):
    rated = [{"text": f"film {i}", "kind": "movies", "intensity": (i * 7 % 80) / 10 - 4} for i in range(300)]
    monkeypatch.setattr(sentiment, "rated", lambda archive: [*rated, {"text": "no", "kind": "news", "intensity": 4.0}])
    found = sentiment.preferred(tmp_path)
    of = {row["text"]: row["intensity"] for row in rated}
    texts = [pair[side] for pair in found for side in ("chosen", "rejected")]
    assert len(found) > 50 and len(set(texts)) == len(texts)
    assert all(of[pair["chosen"]] - of[pair["rejected"]] >= sentiment.APART for pair in found)
