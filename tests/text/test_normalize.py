"""Normalisation: each option does one thing, and none is needed twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_jax.core.table import UserError
from llm_jax.text.normalize import FORMS, normalize


@given(st.text(st.characters()), st.sampled_from(FORMS))
def test_normalising_twice_is_normalising_once(text, form):
    once = normalize(text, form=form, surrogates="replace")
    assert normalize(once, form=form) == once
    once.encode("utf-8")


def test_each_option_does_one_thing():
    text = "e\u0301\r\na\x00b\x85c\ufeff\td\ud800"
    off = {"form": "none", "newlines": False, "controls": False}
    assert normalize(text, **off, surrogates="replace") == text.replace("\ud800", "\ufffd")
    assert normalize("e\u0301", **(off | {"form": "NFC"})) == "é"
    assert normalize("a\r\nb\rc\u2028d\x85", **(off | {"newlines": True})) == "a\nb\nc\nd\n"
    assert normalize("a\x00b\ufeff\t\n", **(off | {"controls": True})) == "ab\t\n"


@pytest.mark.parametrize("lone", ["\udc80", "\ud800", "\ude00\ud83d"])
def test_a_lone_surrogate_is_refused_with_its_place_and_the_way_out(lone):
    with pytest.raises(UserError, match=r"offset 2, .* data\.normalization\.surrogates=replace"):
        normalize("ab" + lone)
    assert normalize("ab" + lone, surrogates="replace") == "ab" + "\ufffd" * len(lone)


def test_two_surrogates_that_are_one_character_are_joined():
    assert normalize("ab\ud83d\ude00") == "ab\U0001f600"


def test_unknown_policies_are_named():
    with pytest.raises(UserError, match="NFX"):
        normalize("a", form="NFX")
    with pytest.raises(UserError, match="ignore"):
        normalize("a", surrogates="ignore")
