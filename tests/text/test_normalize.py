"""Normalisation: each option does one thing, and none is needed twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_jax.core.table import UserError
from llm_jax.text.normalize import FORMS, normalize


@given(st.text(st.characters()), st.sampled_from(FORMS))
def test_normalising_twice_is_normalising_once(text, form):
    once = normalize(text, form=form)
    assert normalize(once, form=form) == once
    once.encode("utf-8")


def test_each_option_does_one_thing():
    text = "e\u0301\r\na\x00b\x85c\ufeff\td\ud800"
    off = {"form": "none", "newlines": False, "controls": False}
    assert normalize(text, **off) == text.replace("\ud800", "\ufffd")
    assert normalize("e\u0301", **(off | {"form": "NFC"})) == "é"
    assert normalize("a\r\nb\rc\u2028d\x85", **(off | {"newlines": True})) == "a\nb\nc\nd\n"
    assert normalize("a\x00b\ufeff\t\n", **(off | {"controls": True})) == "ab\t\n"


def test_a_surrogate_can_be_refused_with_its_place():
    with pytest.raises(UserError, match="offset 2"):
        normalize("ab\udc80", surrogates="error")
    assert normalize("ab", surrogates="error") == "ab"


def test_unknown_policies_are_named():
    with pytest.raises(UserError, match="NFX"):
        normalize("a", form="NFX")
    with pytest.raises(UserError, match="ignore"):
        normalize("a", surrogates="ignore")
