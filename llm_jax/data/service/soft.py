"""Conversations whose last answer a service gave, with the likeliest tokens in the place of each of its own."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.data.examples.chats import Chat
from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.ragged import Ragged
from llm_jax.data.examples.records import Record, Records
from llm_jax.data.features import Fields
from llm_jax.data.kept import Arrays
from llm_jax.data.packing import Rows
from llm_jax.data.service.questions import ABOUT, Token
from llm_jax.text.base import Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Soft(Chat):
    """The form `soft`: the fields of `chat`, teacher_tokens int32 [B,T,K] and teacher_log_probs float32 [B,T,K].

    top: K; of fewer tokens the rest is -1. An answer whose tokens are not those into which this tokenizer splits its
    text is learnt as a text.
    """

    top: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive("data.form", top=self.top)

    def encode(self, records: Records, words: Tokenizer, template: str | None) -> Arrays:
        """Return what `Chat` does, and of each id what the teacher says of its place [N,K].

        Raises:
            UserError: as of `Chat`; or there are no such tokens, or no answer is of the tokens of this tokenizer.
        """
        made = dict(super().encode(records, words, template))
        ids, learnt = (Ragged(made[name], made["starts"]) for name in ("ids", "taught"))
        names = {piece: i for i, piece in enumerate(words.vocabulary) if piece}
        names |= {literal.encode(): added.id for literal, added in words.added.items()}
        shape = (len(made["ids"]), self.top)
        made["teacher_tokens"], made["teacher_log_probs"] = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
        other = 0
        for i, record in enumerate(records):
            told = self._told(record)
            begin = _last(learnt[i])
            own = [names.get(_bytes(place[0][0]), -1) for place in told]
            if own != ids[i][begin : begin + len(own)].tolist() or not learnt[i][begin : begin + len(own)].all():
                other += 1
                continue
            for at, place in enumerate(told, int(ids.starts[i]) + begin):
                few = {names[_bytes(name)]: p for name, p in place if _bytes(name) in names}
                best = sorted(few, key=few.__getitem__, reverse=True)[: self.top]
                made["teacher_tokens"][at, : len(best)] = best
                made["teacher_log_probs"][at, : len(best)] = [few[token] for token in best]
        if other == len(records):
            raise UserError(
                f"{records[0].name}: neither this answer nor any other is of the tokens of this tokenizer; learn from "
                "their texts (data.form.name=chat, objective.name=causal), or take the tokenizer of the teacher"
            )
        if other:
            log.warning("%d of %d answers are split otherwise by the service and learnt as texts", other, len(records))
        return made

    def _told(self, record: Record) -> list[list[Token]]:
        about = record.values.get(ABOUT)
        told = about.get("tokens") if isinstance(about, Mapping) else None
        if not isinstance(told, list):
            raise UserError(f"{record.name}: no tokens of a teacher; make the file by `label --top={self.top}`")
        return told

    def rows(self, made: Arrays, records: Records, around: Around, *, evaluation: bool) -> Rows:
        """Return conversations side by side."""
        places = np.arange(len(made["ids"]))  # in the place of ids: what else is of them is found by it
        numbered = super().rows({**made, "ids": places}, records, around, evaluation=evaluation)

        def gather(rows: np.ndarray, epochs: np.ndarray) -> Fields:
            fields = numbered.gather(rows, epochs)
            real, taught = fields["segments"] > 0, fields["weights"] > 0
            places = np.where(taught, fields["targets"], 0)
            for name in ("tokens", "targets"):
                fields[name] = np.where(real, made["ids"][np.where(real, fields[name], 0)], np.int32(around.pad_id))
            return fields | {
                "teacher_tokens": np.where(taught[..., None], made["teacher_tokens"][places], np.int32(-1)),
                "teacher_log_probs": np.where(taught[..., None], made["teacher_log_probs"][places], np.float32(0)),
            }

        return Rows(numbered.count, gather)

    def blank(self, seq_len: int) -> Fields:
        """Return the fields of one row."""
        shape = (1, seq_len, self.top)
        soft = {"teacher_tokens": np.full(shape, -1, np.int32), "teacher_log_probs": np.zeros(shape, np.float32)}
        return super().blank(seq_len) | soft


def _last(learnt: np.ndarray) -> int:
    """Return where the last run of what is learnt begins."""
    before = np.append(False, learnt[:-1])
    return int(np.flatnonzero(learnt & ~before)[-1])


def _bytes(name: str | list[int]) -> bytes:
    return name.encode("utf-8", "replace") if isinstance(name, str) else bytes(name)
