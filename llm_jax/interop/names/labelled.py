"""Heads for labels at Hugging Face: which class of a family has one, how it reads a text, how its tensors are called.

A class is exported and imported only where it computes what ours does; the way to a model that it has is told
otherwise.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llm_jax.core.table import UserError, choices, nearest
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.rules import Rule, Shape, linear, vector

KERNEL, BIAS = "label_head/kernel", "label_head/bias"
TEXT, TOKENS, SPANS = "text", "tokens", "spans"


@dataclass(frozen=True)
class Class:
    """A class of `transformers` with a head.

    name: "Sequence", "Token" or "Question" and what follows come after the family's. linear: the head's map to scores.
    poolings: {how ours reads a text: what config.json says of it}; none where tokens are scored. biased: whether the
    head of texts has a bias. unread: paths of ours (full match) that it has not. moved: {how names of the family begin:
    how they begin here}.
    """

    name: str
    linear: str
    poolings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    biased: bool = True
    unread: str = "head/.*"
    moved: Mapping[str, str] = field(default_factory=dict)


def decoder(name: str, kinds: str = f"{TEXT} {TOKENS} {SPANS}", tagger: str = "score", asked: str = "") -> dict:
    """Classes of a family that reads from left to right.

    Args:
        name: of the family in the names of classes.
        kinds: which it has.
        tagger: the map to scores of tokens.
        asked: how names begin in the class for spans, instead of "model."; "" for what the family has.
    """
    found = {
        TEXT: Class(f"{name}ForSequenceClassification", "score", {"last": {}}, biased=False),
        TOKENS: Class(f"{name}ForTokenClassification", tagger),
        SPANS: Class(f"{name}ForQuestionAnswering", "qa_outputs", moved={"model.": asked} if asked else {}),
    }
    return {kind: found[kind] for kind in kinds.split()}


def encoder(name: str, dense: Mapping[str, str], scores: str) -> dict:
    """Classes of BERT and RoBERTa, whose pooler, renamed so, is a part of the head of texts."""
    alone = "(head|pooler)/.*"
    return {
        TEXT: Class(
            f"{name}ForSequenceClassification", scores, {"pooler": {}}, unread="head/.*|pooler/order.*", moved=dense
        ),
        TOKENS: Class(f"{name}ForTokenClassification", "classifier", unread=alone),
        SPANS: Class(f"{name}ForQuestionAnswering", "qa_outputs", unread=alone),
    }


MODERN = {"first": {"classifier_pooling": "cls"}, "mean": {"classifier_pooling": "mean"}}
BOTH, OLD = f"{TEXT} {TOKENS}", "transformer."

CLASSES: dict[str, dict[str, Class]] = {
    "bert": encoder("Bert", {}, "classifier"),
    "deepseek_v3": decoder("DeepseekV3", BOTH),
    "gemma": decoder("Gemma", BOTH),
    "gemma2": decoder("Gemma2", BOTH),
    "gemma3": decoder("Gemma3Text", TEXT),
    "gpt2": decoder("GPT2", tagger="classifier"),
    "gpt_neox": decoder("GPTNeoX", tagger="classifier"),
    "gpt_oss": decoder("GptOss", BOTH),
    "llama": decoder("Llama", asked=OLD),
    "mistral": decoder("Mistral"),
    "mixtral": decoder("Mixtral"),
    "modernbert": {
        TEXT: Class("ModernBertForSequenceClassification", "classifier", MODERN, unread="head/bias"),
        TOKENS: Class("ModernBertForTokenClassification", "classifier", unread="head/bias"),
        SPANS: Class("ModernBertForQuestionAnswering", "classifier", unread="head/bias"),
    },
    "olmo2": decoder("Olmo2", TEXT),
    "phi3": decoder("Phi3", BOTH),
    "qwen2": decoder("Qwen2", asked=OLD),
    "qwen3": decoder("Qwen3", asked=OLD),
    "qwen3_moe": decoder("Qwen3Moe", asked=OLD),
    "roberta": encoder("Roberta", {"roberta.pooler.dense.": "classifier.dense."}, "classifier.out_proj"),
}
"""Our family -> {what is scored: class}."""


@dataclass(frozen=True)
class Head:
    """A head of ours, for export, or of theirs, imported.

    family: of the model. kind: what is scored. labels: names of the classes; none of a number. pooling: how the state
    of a text is made. bias: whether the map has one. dropout: of what it reads.

    Raises:
        UserError: `transformers` has no class that computes the same.
    """

    family: str
    kind: str
    labels: tuple[str, ...]
    pooling: str
    bias: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        classes = CLASSES.get(self.family, {})
        if self.kind not in classes:
            having = [family for family, has in CLASSES.items() if self.kind in has]
            raise UserError(
                f"transformers has no head of {self.kind} for model.name={self.family!r}, so that it cannot be "
                f"exported; those that have one: {choices(having)}{nearest(self.family, having)}"
            )
        found = self.abroad
        if found.poolings and self.pooling not in found.poolings:
            pooler = " --config.model.pooler=True" if "pooler" in found.poolings else ""
            raise UserError(
                f"{found.name} reads the state of a text as objective.pooling={choices(map(repr, found.poolings))}, "
                f"and this model as {self.pooling!r}; train it with "
                f"--config.objective.pooling={next(iter(found.poolings))}{pooler} to export it"
            )
        if self.bias and not found.biased:
            raise UserError(
                f"{found.name} has a head without a bias, and this model's has one; train it with "
                "--config.objective.bias=False to export it"
            )

    @property
    def abroad(self) -> Class:
        """The class of `transformers`."""
        return CLASSES[self.family][self.kind]

    @property
    def module(self) -> str:
        """The name of the module abroad that has the map to scores."""
        return self.abroad.linear.partition(".")[0]

    def read(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Return those of a model's parameters that its scores are made of."""
        return {path: shape for path, shape in shapes.items() if not re.fullmatch(self.abroad.unread, path)}

    def names(self, family: NameMap) -> NameMap:
        """Return the map of names of the class."""
        found = self.abroad
        own = (linear(f"{found.linear}.weight", KERNEL), vector(f"{found.linear}.bias", BIAS))
        outside = (*family.outside, *(rule.theirs for rule in own), *found.moved.values())
        rules = [*map(self._moved, family.rules), *own]
        moved = {rule.theirs for rule in family.rules} - {rule.theirs for rule in rules}
        unread = {rule.theirs for rule in rules if all(re.fullmatch(found.unread, path) for path in rule.ours)}
        ignored = (*family.ignored, *map(re.escape, sorted(moved | unread)))  # old files have them all the same
        return replace(family, rules=tuple(rules), copies={}, outside=outside, ignored=ignored)

    def config(self) -> dict[str, Any]:
        """Return what config.json says of the head."""
        found = self.abroad
        said = {
            "architectures": [found.name],
            "classifier_dropout": self.dropout,
            **found.poolings.get(self.pooling, {}),
        }
        if self.kind == SPANS:
            return said
        labels = self.labels or ("LABEL_0",)
        if self.kind == TEXT:
            said["problem_type"] = "single_label_classification" if self.labels else "regression"
        return said | {
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
        }

    def fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a model below the head, given those that its config.json says."""
        parts = {"head": False, "pooler": self.pooling == "pooler"}
        return {**fields, **{name: value for name, value in parts.items() if name in fields}}

    def _moved(self, rule: Rule) -> Rule:
        for old, new in self.abroad.moved.items():
            if rule.theirs.startswith(old):
                return replace(rule, theirs=new + rule.theirs.removeprefix(old))
        return rule


def read(family: str, config: Mapping[str, Any], fields: Mapping[str, Any]) -> Head | None:
    """Return the head that a config.json names, None where it names no class of `CLASSES`.

    Args:
        family: of ours.
        config: config.json.
        fields: of our model, as it says them.

    Raises:
        UserError: it scores otherwise than any of ours.
    """
    classes = CLASSES.get(family, {})
    kind = next((kind for kind, found in classes.items() if found.name in (config.get("architectures") or [])), None)
    if kind is None:
        return None
    found, labels = classes[kind], _labels(config)
    usual = next(iter(found.poolings.values()), {})
    said = {key: config.get(key, value) for key, value in usual.items()}
    pooling = next((ours for ours, theirs in found.poolings.items() if theirs == said), TOKENS)
    if found.poolings and pooling == TOKENS:
        raise UserError(f"{found.name} with {said} is not supported; known are {list(found.poolings.values())}")
    if kind == SPANS:
        labels = ("start", "end")
    elif kind == TEXT:
        labels = _texts(found, config.get("problem_type"), labels)
    elif len(labels) < 2:
        raise UserError(f"{found.name} with id2label of {list(labels)}: tags are two or more")
    biased, dropout = kind != TEXT or found.biased, config.get("classifier_dropout")
    if dropout is None:
        dropout = fields.get("dropout", 0.0) if biased else 0.0
    return Head(family, kind, labels, pooling, biased, dropout)


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes in a config.json, in the order of their numbers.

    Raises:
        UserError: they are no texts, have other numbers, or one comes twice.
    """
    said = config.get("id2label") or {i: f"LABEL_{i}" for i in range(config.get("num_labels") or 2)}
    named = {str(number): label for number, label in said.items()}
    labels = [named.get(str(i)) for i in range(len(named))]
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels):
        raise UserError(f"id2label={said} must have a name for each of 0, 1, …, each once")
    return tuple(map(str, labels))


def _texts(found: Class, problem: str | None, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the classes of texts, none of a number; as `transformers` tells these apart."""
    if len(labels) == 1 and problem in (None, "regression"):
        return ()
    if len(labels) > 1 and problem in (None, "single_label_classification"):
        return labels
    raise UserError(
        f"{found.name} with problem_type={problem!r} and {len(labels)} label(s) is not supported: a text has one of "
        "several classes (single_label_classification), or one number (regression). Where its labels exclude one "
        "another, say so by that problem_type in its config.json"
    )
