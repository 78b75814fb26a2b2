"""Normalisation before tokenizing: canonical Unicode, one kind of newline, no stray control characters.

Every change is an option with a name, so that what a shard holds can be read from its configuration.
"""

import re
import unicodedata

from llm_jax.core.table import UserError

FORMS = ("NFC", "NFD", "NFKC", "NFKD", "none")
SURROGATES = ("replace", "error")
REPLACEMENT = "\ufffd"

_NEWLINES = re.compile("\r\n?|\u2028|\u2029|\x85")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff]")
_LONE_SURROGATE = re.compile("[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")


def well_formed(text: str) -> str:
    """Return `text` such that it has a UTF-8 form: surrogate pairs are joined, lone surrogates become U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def normalize(
    text: str,
    *,
    form: str = "NFC",
    newlines: bool = True,
    controls: bool = True,
    surrogates: str = "error",
) -> str:
    """Return the text as it is tokenized.

    Args:
        text: any string, lone surrogates included.
        form: Unicode normalisation form (UAX 15), or "none".
        newlines: CR LF, CR, NEL and the Unicode line and paragraph separators become LF.
        controls: C0 and C1 controls other than tab and newline, and byte-order marks, are dropped.
        surrogates: lone surrogates, which have no UTF-8 form, are refused ("error") or become U+FFFD ("replace").

    Raises:
        UserError: an unknown `form` or policy, or a lone surrogate under "error"; the message gives its offset.
    """
    if form not in FORMS:
        raise UserError(f"data.normalization.form={form!r} is not known; choose one of: {', '.join(FORMS)}")
    if surrogates not in SURROGATES:
        known = ", ".join(SURROGATES)
        raise UserError(f"data.normalization.surrogates={surrogates!r} is not known; choose one of: {known}")
    repaired = well_formed(text)
    if surrogates == "error" and repaired is not text and (lone := _LONE_SURROGATE.search(text)):
        raise UserError(
            f"the text holds the surrogate {lone[0]!r} at offset {lone.start()}, which UTF-8 cannot write; mend it, or "
            "set data.normalization.surrogates=replace for U+FFFD in its place"
        )
    text = repaired
    if newlines:
        text = _NEWLINES.sub("\n", text)
    if controls:
        text = _CONTROLS.sub("", text)
    if form != "none" and not unicodedata.is_normalized(form, text):  # type: ignore[arg-type]  # checked above
        text = unicodedata.normalize(form, text)  # type: ignore[arg-type]
    return text
