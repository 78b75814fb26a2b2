"""Whole conversations: what of them is an answer, as `transformers` marks it, and what cannot be known."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Engine

from llm_jax.core.table import UserError
from llm_jax.text import tokenizers, turns

GOLDEN = Path(__file__).parent.parent / "golden"
KNOWN = json.loads((GOLDEN / "turns.json").read_text("utf-8"))
TEMPLATES = KNOWN["templates"]
CONTROLS = [
    "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<bos>", "<start_of_turn>", "<end_of_turn>",
]  # fmt: skip


@pytest.fixture(scope="module")
def engine():
    made = tokenizers.build("bpe", {"vocab_size": 270}, lambda: ["the people of the union"] * 3)
    theirs = Engine.from_str(made.files["tokenizer.json"].decode())
    theirs.add_special_tokens(CONTROLS)
    theirs.add_tokens([AddedToken("<think>", special=False)])
    return theirs


@pytest.fixture(scope="module")
def words(engine, tmp_path_factory):
    """Return the tokenizer with the token that a family begins its texts with."""
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    engine.save(str(path))

    def build(start):
        return tokenizers.build("huggingface", {"path": str(path), "eos": "<|im_end|>", "bos": start or None})

    return build


@pytest.mark.parametrize("name", KNOWN["templates"])
def test_what_is_learnt_is_what_transformers_calls_the_assistants(name, engine, words):
    keys, template = list(KNOWN["chats"]), TEMPLATES[name]
    made = turns.encode(template["template"], words(template["start"]), list(KNOWN["chats"].values()), keys)
    for key, (ids, answered) in zip(keys, made, strict=True):
        wanted = KNOWN["templates"][name]["chats"][key]
        assert engine.decode(ids.tolist(), skip_special_tokens=False) == wanted["text"]
        edges = np.flatnonzero(np.diff(answered.astype(int), prepend=0, append=0)).reshape(-1, 2)
        found = [engine.decode(ids[a:b].tolist(), skip_special_tokens=False) for a, b in edges]
        assert found == wanted["answers"]


def test_an_answer_that_holds_a_control_token_ends_where_the_template_ends_it(words):
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b<|im_end|>c"}]
    ((ids, answered),) = turns.encode(TEMPLATES["smollm2"]["template"], words(""), [talk], ["x"])
    assert words("").decode(ids[answered]) == "b<|im_end|>c"
    assert ids[answered].tolist().count(words("").eos_id) == 1 and ids[answered][-1] == words("").eos_id


def test_without_control_tokens_an_answer_ends_with_its_turn():
    plain = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ 'assistant: ' if add_generation_prompt }}"
    )
    words, talk = tokenizers.build("bytes"), KNOWN["chats"]["two"]
    ((ids, answered),) = turns.encode(plain, words, [talk], ["x"])
    assert bytes(ids[answered].tolist()).decode() == "  2\n\n<b>3</b>\n\nthen 4\n"
    assert bytes(ids[~answered].tolist()).decode() == "user: 1 + 1?\nassistant: user: 'more'\nassistant: "


def test_a_template_that_writes_earlier_turns_otherwise_is_refused_by_the_name_of_the_row(words):
    rewriting = "{% for m in messages %}{{ m.content }}{% endfor %}{{ messages | length }}<|im_end|>"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(
        UserError, match=r"my.jsonl:3: the chat template writes answer 1 or the turns before it otherwise"
    ):
        turns.encode(rewriting, words(""), [talk], ["my.jsonl:3"])


def test_the_row_that_a_template_refuses_is_named(words):
    fine = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    template = "{{ raise_exception('No.') if messages | length > 2 }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(UserError, match=r"refuses my.jsonl:2: No\."):
        turns.encode(template, words(""), [fine, [fine[0], *fine]], ["my.jsonl:1", "my.jsonl:2"])


@pytest.mark.oracle
@pytest.mark.parametrize("name", KNOWN["templates"])
def test_ids_and_mask_are_those_of_apply_chat_template(name, engine, words, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(GOLDEN))
    marked = __import__("make_turns").marked(TEMPLATES[name]["template"], name)
    start = TEMPLATES[name]["start"]
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=engine, bos_token=start or None)
    for key, talk in KNOWN["chats"].items():
        given = {"chat_template": marked, "return_assistant_tokens_mask": True, "return_dict": True}
        wanted = theirs.apply_chat_template(talk, **given)
        ((ids, answered),) = turns.encode(TEMPLATES[name]["template"], words(start), [talk], [key])
        assert ids.tolist() == wanted["input_ids"]
        assert answered.astype(int).tolist() == wanted["assistant_masks"]
