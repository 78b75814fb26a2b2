"""What a service says of each token of its answers: read from its JSON, laid out beside the tokens of the student."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from llm_jax.cli import main
from llm_jax.core.table import UserError
from llm_jax.data.examples.chats import Chat
from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.readers import objects
from llm_jax.data.examples.records import Record, Records
from llm_jax.data.service.client import Service
from llm_jax.data.service.label import label
from llm_jax.data.service.questions import Questions
from llm_jax.data.service.soft import Soft
from llm_jax.text import tokenizers
from llm_jax.text.base import Added
from tests.data.answering import service

TEMPLATE = "{% for m in messages %}{{ m['role'][0] + m['content'] + '<|endoftext|>' }}{% endfor %}" \
    "{% if add_generation_prompt %}a{% endif %}"  # fmt: skip
PLAIN = tokenizers.build("bytes", {})
BYTES = replace(PLAIN, added={"<|endoftext|>": Added(PLAIN.eos_id)})
ANSWER = "é!"  # three bytes, of which the first two are no text of their own


def told(text):
    """The `logprobs` of chat for a tokenizer of bytes: the byte itself, "?", and a token that no byte is."""
    place = []
    for byte in text.encode():
        top = [(bytes([byte]), math.log(0.6)), (b"?", math.log(0.3)), (b"long", math.log(0.05))]
        each = [{"token": "�", "bytes": list(raw), "logprob": p} for raw, p in top]
        place.append(each[0] | {"top_logprobs": each})
    return {"content": place}


def answers(tmp_path, *texts, top=2):
    def reply(asked):
        text = texts[int(asked.prompt)]
        choice = {"message": {"content": text}, "finish_reason": "stop", "logprobs": told(text)}
        assert asked.body["logprobs"] is True and asked.body["top_logprobs"] == top
        asked.send(200, {"model": "toy-1", "choices": [choice]})

    records = [Record({"prompt": str(i)}, f"p:{i}") for i in range(len(texts))]
    with service(reply) as (url, _):
        label(records, Questions(model="toy", top=top), Service(url), tmp_path / "a.jsonl")
    found = list(objects(tmp_path / "a.jsonl"))
    return Records("x", lambda: found)


def test_each_token_of_an_answer_has_what_the_teacher_says_of_its_place_and_no_other_token_has(tmp_path):
    records = answers(tmp_path, ANSWER, "ok", "é")
    form = Soft(top=2)
    fields, plain = (
        kind.rows(kind.encode(records, BYTES, TEMPLATE), records, Around(BYTES, 20, 0), evaluation=False).gather(
            np.arange(1), np.zeros(1, int)
        )
        for kind in (form, Chat())
    )
    for name, values in plain.items():
        np.testing.assert_array_equal(fields[name], values, err_msg=name)
    assert {name: x.shape[1:] for name, x in fields.items()} == {n: x.shape[1:] for n, x in form.blank(20).items()}
    ids, log_probs = fields["teacher_tokens"][0], fields["teacher_log_probs"][0]
    ends = fields["targets"][0] == BYTES.eos_id
    own = (fields["weights"][0] > 0) & ~ends
    assert own.sum() == len(ANSWER.encode()) + 2 + 2
    np.testing.assert_array_equal(ids[own, 0], fields["targets"][0][own])
    assert (ids[own, 1] == BYTES.encode("?")[0]).all() and (ids[~own] == -1).all()
    np.testing.assert_allclose(np.exp(log_probs[own]), np.tile([0.6, 0.3], (own.sum(), 1)), rtol=1e-6)
    assert not log_probs[~own].any()


def test_the_verb_keeps_the_likeliest_tokens_and_names_the_recipe_that_learns_from_them(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"prompt": "hm"}\n')

    def reply(asked):
        logprobs = {"logprobs": told("ok")} if asked.body.get("top_logprobs") == 2 else {}
        asked.send(200, {"choices": [{"message": {"content": "ok"}, "finish_reason": "stop", **logprobs}]})

    for top, recipe in ((0, "chat"), (2, "soft")):
        to = tmp_path / f"{top}.jsonl"
        with service(reply) as (url, _):
            words = [f"--url={url}", "--model=toy", f"--prompts={tmp_path}/p.jsonl", f"--to={to}", f"--top={top}"]
            assert main(["label", *words]) == 0
        assert f"--config=configs/{recipe}.py " in capsys.readouterr().out
        assert ["tokens" in record.values["service"] for record in objects(to)] == [bool(top)]


def test_answers_of_other_tokens_are_learnt_as_texts_or_refused_where_all_are(tmp_path, caplog):
    records = answers(tmp_path, "ok", "no")
    first = {**records[0].values, "service": {"tokens": [[["ok", -0.1]]]}}
    mixed = Records("y", lambda: [Record(first, "a:1"), records[1]])
    made = Soft(top=2).encode(mixed, BYTES, TEMPLATE)
    assert "1 of 2 answers" in caplog.text and (made["teacher_tokens"] >= 0).sum() == 4
    with pytest.raises(UserError, match=r"a:1: neither this answer .*data\.form\.name=chat"):
        Soft().encode(Records("z", lambda: [Record(first, "a:1")]), BYTES, TEMPLATE)
    with pytest.raises(UserError, match=r"a:1: no tokens of a teacher; .*--top=5"):
        Soft().encode(Records("w", lambda: [Record({"prompt": "a", "response": "b"}, "a:1")]), BYTES, TEMPLATE)


def test_the_older_interface_gives_texts_of_tokens_and_one_without_any_is_refused(tmp_path):
    told = {"tokens": ["o", "k"], "token_logprobs": [-0.5, -0.25], "top_logprobs": [{"o": -0.5, "a": -2}, {"k": -0.25}]}

    def reply(asked):
        assert asked.body["logprobs"] == 2
        asked.send(200, {"choices": [{"text": "ok", "logprobs": told if asked.prompt == "yes" else None}]})

    questions = Questions(model="toy", endpoint="completions", top=2)
    with service(reply) as (url, _):
        label([Record({"prompt": "yes"}, "p:1")], questions, Service(url), tmp_path / "a.jsonl")
        with pytest.raises(UserError, match=r"p:2: .*the 2 likeliest tokens \(--top\)"):
            alone = Service(url, retries=0)
            label([Record({"prompt": "no"}, "p:2")], questions, alone, tmp_path / "b.jsonl")
    wanted = [[["o", -0.5], ["o", -0.5], ["a", -2.0]], [["k", -0.25], ["k", -0.25]]]
    assert json.loads((tmp_path / "a.jsonl").read_text())["service"]["tokens"] == wanted
