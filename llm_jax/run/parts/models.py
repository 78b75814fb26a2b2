"""The model of a configuration, with its head or its adapter, the objective that it is learnt by, and its examples."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llm_jax.adapt import ADAPTERS
from llm_jax.adapt.adapted import adapted, unadapted
from llm_jax.adapt.headed import KERNEL, Headed
from llm_jax.adapt.pack import Packing
from llm_jax.adapt.packed import packed
from llm_jax.adapt.prefixed import Prefixed
from llm_jax.core.table import UserError, lookup
from llm_jax.core.types import Model, Objective
from llm_jax.data.examples import forms
from llm_jax.data.examples.forms import Form
from llm_jax.interop import configs
from llm_jax.interop.names import Shape
from llm_jax.interop.names.labelled import SPANS, TEXT, TOKENS, Head
from llm_jax.models import MODELS
from llm_jax.objectives import OBJECTIVES
from llm_jax.run import sections
from llm_jax.run.config import Config, construct
from llm_jax.run.parts.compression import EMBEDDINGS

ANY_VOCABULARY = 256  # stands in for a size that is not known yet, so that all else can be checked before any work


def model(config: Config, *, vocab_size: int) -> Model:
    """Return the model of a configuration; what it leaves open derives from the data and the objective.

    vocab_size: ids of the tokenizer; those that the objective adds come after them.
    """
    values = dict(config.values["model"])
    cls = lookup(MODELS, values.pop("name"), "model.name")
    if values.get("vocab_size") is None:
        values["vocab_size"] = vocab_size + getattr(objective(config), "extra_tokens", 0)
    if values.get("max_positions", 0) is None:
        values["max_positions"] = longest_text(config)
    plain = construct(cls, values)
    if getattr(objective(config), "bidirectional", False):
        plain = Prefixed(plain)
    return adaptation(config, headed(config, plain))


def headed(config: Config, plain: Model) -> Model:
    """Return a model with the head that the objective of a configuration asks for, which may be none."""
    head = getattr(objective(config), "head", None)
    if head is None:
        return plain
    names = labels(config) if head.classes else ()
    if head.pooling == "tokens" and hasattr(plain, "tagger"):  # its states are the tags
        return plain.tagger(names)
    return Headed(plain, names, head.pooling, head.dropout, head.bias)


def exportable(section: sections.Export, values: Mapping[str, Any], model: Model) -> None:
    """Refuse exports during training of a model that learns labels, where they could not be written.

    Raises:
        UserError: the format has no such heads, or `transformers` none that computes the same.
    """
    plain = unadapted(model)
    if section.format != "hf" or not isinstance(plain, Headed):
        raise UserError(
            f"export.every={section.every}: heads for labels are exported with export.format='hf' alone, and of models "
            "that are learnt by gradients; set 0"
        )
    abroad(values, plain)


def alike_abroad(values: Mapping[str, Any], model: Model) -> None:
    """Refuse to export a model that other programs would not read as it was trained.

    Raises:
        UserError: it reads prompts in both directions, or a config.json of its family cannot say its sizes.
    """
    if isinstance(plain := unadapted(model), Prefixed):
        raise UserError(
            "this model learnt to read prompts in both directions (objective.bidirectional=True), and other programs "
            "read them from left to right; go on with objective.bidirectional=False by init_from, and export that"
        )
    family, shapes, _ = foreign(values, plain)
    configs.write(values["model"]["name"], asdict(family), shapes, context=1, dtype="float32")


def foreign(values: Mapping[str, Any], model: Model) -> tuple[Any, dict[str, Shape], Head | None]:
    """Return what an export says of a model: the member of `MODELS`, the shapes by path, and the head for labels."""
    shapes = {path: d.shape for path, d in model.declarations().items()}
    if not isinstance(model, Headed):
        return model, shapes, None
    head = abroad(values, model)
    return model.base, head.read(shapes), head


def abroad(values: Mapping[str, Any], model: Headed) -> Head:
    """Return the head of a model as an export has it.

    Raises:
        UserError: `transformers` has none that computes the same.
    """
    kind = SPANS if values["objective"]["name"] == "spans" else TOKENS if model.pooled == TOKENS else TEXT
    return Head(values["model"]["name"], kind, model.labels, model.pooled, model.bias, model.dropout)


def domestic(head: Head) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the section `objective` and the `data.form` of a head as it came; a text has the tokenizer's own frame."""
    shaped: dict[str, Any] = {"dropout": head.dropout}
    if head.kind == TEXT:
        shaped |= {"pooling": head.pooling, "bias": head.bias}
    name, form = {
        TEXT: ("classification" if head.labels else "regression", {"name": "labelled", "long": "cut"}),
        TOKENS: ("tagging", {"name": "tagged", "long": "cut"}),
        SPANS: ("spans", {"name": "passages"}),
    }[head.kind]
    classes = {"classes": list(head.labels)} if head.labels and head.kind != SPANS else {}
    return {"name": name, **shaped}, {**form, **classes, "framed": False}


def labels(config: Config) -> tuple[str, ...]:
    """Return the names of the classes of a configuration.

    Raises:
        UserError: it names none.
    """
    made = form(config.values["data"]["form"])
    names = tuple(getattr(made, "names", getattr(made, "classes", None)) or ())
    if not names:
        raise UserError(
            f"objective.name={config.values['objective']['name']!r} needs the names of the classes: "
            'data.form={"name": "labelled", "classes": ["…", "…"]}; numbers are for objective.name=\'regression\''
        )
    return names


def longest_text(config: Config) -> int:
    """Return the most tokens that a text of a batch has."""
    return int(config.values["data"]["seq_len"]) + getattr(objective(config), "extra_positions", 0)


def adaptation(config: Config, plain: Model) -> Model:
    """Return a model with the adapter of a configuration, or packed as it says; it may say neither."""
    kept: sections.Compress = construct(sections.Compress, config.values["compress"])
    if kept.quantize is not None:
        return packed(plain, Packing(kept.quantize, kept.group), EMBEDDINGS[kept.embeddings])
    section: sections.Adapt = construct(sections.Adapt, config.values["adapt"])
    if section.name == "none":
        return plain
    kind = lookup(ADAPTERS, section.name, "adapt.name")(section.rank, section.alpha, section.dropout)
    packing = None if section.pack is None else Packing(section.pack, section.pack_group)
    new = (f"^{KERNEL}$",) if isinstance(plain, Headed) else ()
    return adapted(plain, kind, (*section.patterns, *new), packing)


def objective(config: Config) -> Objective:
    """Return the objective of a configuration."""
    values = dict(config.values["objective"])
    return construct(lookup(OBJECTIVES, values.pop("name"), "objective.name"), values)


def form(given: Mapping[str, Any] | None) -> Form | None:
    """Return what is made of examples by the section `data.form`; None for text."""
    return None if given is None else forms.build(given)
