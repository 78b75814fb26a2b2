"""Hugging Face's config.json and the fields of our models, one two-way map per family, as data.

A map is a tuple of entries. Each says which keys of theirs and which fields of ours say the same thing. `read` and
`write` turn one side into the other; a key that no entry takes, and that is not known to change nothing, is refused,
since it may change the maths. Both dialects are read: that of transformers 4 (`rope_theta`, `rope_scaling`,
`torch_dtype`) and that of 5 (`rope_parameters`, `dtype`); what is written holds both.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from llm_jax.core.table import UserError, choices, lookup

Fields = dict[str, Any]  # ours, by dotted names: {"num_layers": 2, "rope.theta": 10000.0}
Json = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]

FIELDS = {
    "bart": "llm_jax.interop.names.seq2seq.bart:FIELDS",
    "bert": "llm_jax.interop.names.encoder.bert:FIELDS",
    "deepseek_v3": "llm_jax.interop.names.moe.deepseek_v3:FIELDS",
    "gemma": "llm_jax.interop.names.gemma.gemma:FIELDS",
    "gemma2": "llm_jax.interop.names.gemma.gemma2:FIELDS",
    "gemma3": "llm_jax.interop.names.gemma.gemma3:FIELDS",
    "gpt2": "llm_jax.interop.names.gpt2:FIELDS",
    "gpt_neox": "llm_jax.interop.names.gpt_neox:FIELDS",
    "gpt_oss": "llm_jax.interop.names.moe.gpt_oss:FIELDS",
    "llama": "llm_jax.interop.names.llama:FIELDS",
    "mamba2": "llm_jax.interop.names.mamba2:FIELDS",
    "marian": "llm_jax.interop.names.seq2seq.marian:FIELDS",
    "mistral": "llm_jax.interop.names.mistral:FIELDS",
    "mixtral": "llm_jax.interop.names.moe.mixtral:FIELDS",
    "modernbert": "llm_jax.interop.names.encoder.modernbert:FIELDS",
    "olmo2": "llm_jax.interop.names.olmo2:FIELDS",
    "phi3": "llm_jax.interop.names.phi3:FIELDS",
    "qwen2": "llm_jax.interop.names.qwen2:FIELDS",
    "qwen3": "llm_jax.interop.names.qwen3:FIELDS",
    "qwen3_moe": "llm_jax.interop.names.moe.qwen3_moe:FIELDS",
    "roberta": "llm_jax.interop.names.encoder.roberta:FIELDS",
    "t5": "llm_jax.interop.names.seq2seq.t5:FIELDS",
}
"""Our family -> its map, beside its map of names."""

MODEL_TYPES = {"gemma3_text" if name == "gemma3" else name: name for name in FIELDS}
"""`model_type` of config.json -> our family."""

HARMLESS = frozenset({
    # where it came from, and what it is stored in
    "_name_or_path", "_commit_hash", "architectures", "model_type", "transformers_version", "transformers.js_config",
    "torch_dtype", "dtype", "is_llama_config", "auto_map", "name", "language",
    # tokens and decoding: `generation_config.json` and the tokenizer say so better
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "use_cache",
    "task_specific_params", "cache_implementation",
    # how a program computes, not what
    "pretraining_tp", "rope_interleaved", "reorder_and_upcast_attn", "_attn_implementation", "attn_implementation",
    "_attn_implementation_autoset", "return_dict", "output_attentions", "output_hidden_states",
    "return_dict_in_generate", "chunk_size_feed_forward", "gradient_checkpointing", "tie_encoder_decoder",
    "torchscript", "is_decoder", "is_encoder_decoder",
    # training and other heads
    "initializer_range", "attention_dropout", "hidden_dropout", "id2label", "label2id", "num_labels", "problem_type",
    "_num_labels", "output_past",
    "output_router_logits", "router_aux_loss_coef", "finetuning_task", "classifier_dropout",
    # read by `context`
    "max_position_embeddings", "n_positions", "n_ctx",
})  # fmt: skip
"""Keys that change nothing that the model computes, in any family."""

REQUIRED = object()


class Entry(NamedTuple):
    """Some keys of theirs and the fields of ours that say the same.

    keys: theirs, all that `read` looks at. read: config.json -> our fields; raises UserError at what ours cannot do.
    write: (our fields, shapes of our parameters) -> keys of config.json. A None among our fields is "derived".
    """

    keys: tuple[str, ...]
    read: Callable[[Json], Fields]
    write: Callable[[Fields, Shapes], dict[str, Any]]


def field(theirs: str, ours: str, default: Any = REQUIRED, size: tuple[str, int] | None = None) -> Entry:
    """One key, one field.

    Args:
        theirs: key of config.json.
        ours: dotted name of the field.
        default: what transformers takes where the key is missing (None: ours is derived too).
        size: (end of its path, dimension) of a parameter whose size it is, for writing a field that was left to be
            derived.
    """

    def read(config: Json) -> Fields:
        value = config.get(theirs, default)
        if value is REQUIRED:
            raise UserError(f"{theirs} is missing")
        return {ours: value}

    def write(fields: Fields, shapes: Shapes) -> dict[str, Any]:
        value = fields.get(ours)
        if value is None and size:
            value = next(shape[size[1]] for path, shape in shapes.items() if path.endswith(size[0]))
        return {theirs: value}

    return Entry((theirs,), read, write)


def either(entry: Entry, *others: str) -> Entry:
    """An entry of one key that has other names too in some files; its own is written."""
    names = (*entry.keys, *others)

    def read(config: Json) -> Fields:
        said = {name: config[name] for name in names if config.get(name) is not None}
        if len(set(said.values())) > 1:
            raise UserError(f"{choices(names)} say the same, and here they differ: {said}")
        return entry.read({**config, **dict.fromkeys(entry.keys, next(iter(said.values())))} if said else config)

    return entry._replace(keys=names, read=read)


def only(theirs: str, *values: Any) -> Entry:
    """A key of which ours can do these values alone; the first is written, and taken where the key is missing."""

    def read(config: Json) -> Fields:
        if config.get(theirs, values[0]) not in values:
            raise UserError(
                f"{theirs}={config[theirs]!r} is not supported; this family does {choices(map(str, values))}"
            )
        return {}

    return Entry((theirs,), read, lambda fields, shapes: {theirs: values[0]})


def harmless(*theirs: str, write: Json | None = None) -> Entry:
    """Keys that change nothing in this family; `write` is written all the same, for programs that ask."""
    return Entry(theirs, lambda config: {}, lambda fields, shapes: dict(write or {}))


@dataclass(frozen=True)
class FieldMap:
    """All fields of a family.

    model_type, architecture: what is written. entries: of all keys that matter. context: the key of the most positions
    that the model was made for; a family with learned positions has as many as its field says. parts: names of tensors
    -> fields that say which parts a file has, where its config.json is not to be trusted with it. source: whether it
    writes one text from another, after a token that is said by decoder_start_token_id.
    """

    model_type: str
    architecture: str
    entries: tuple[Entry, ...]
    context: str = "max_position_embeddings"
    parts: Callable[[Collection[str]], Fields] | None = None
    source: bool = False


class Described(NamedTuple):
    """What config.json says: our family, its fields (nested), the longest text it was made for, the stored dtype."""

    family: str
    fields: dict[str, Any]
    context: int | None
    dtype: str | None


def family_of(config: Json) -> str:
    """Return our name of the family that `model_type` (or, without one, `architectures`) names.

    Raises:
        UserError: it is none of ours.
    """
    kind = config.get("model_type")
    if kind in MODEL_TYPES:
        return MODEL_TYPES[kind]
    classes = config.get("architectures") or []
    if kind is None:
        for family in FIELDS:
            if lookup(FIELDS, family, "family").architecture in classes:
                return family
    raise UserError(
        f"config.json: model_type={kind!r}, architectures={classes!r} is no family of ours; "
        f"those that can be imported: {choices(MODEL_TYPES)}"
    )


def read(config: Json, tensors: Collection[str] = ()) -> Described:
    """Return what a config.json says in our words; names of the tensors beside it say which parts are there.

    Raises:
        UserError: all that is missing, is not supported, or is not understood, in one list.
    """
    family = family_of(config)
    table: FieldMap = lookup(FIELDS, family, "family")
    fields: Fields = {}
    problems = []
    for entry in table.entries:
        try:
            fields |= entry.read(config)
        except UserError as error:
            problems.append(str(error))
    known = HARMLESS.union(*(entry.keys for entry in table.entries))
    problems += [
        f"{key}={value!r} is not understood, and might change what the model computes"
        for key, value in config.items()
        if key not in known and value is not None
    ]
    if problems:
        raise UserError("config.json of model_type " + repr(table.model_type) + ":\n  " + "\n  ".join(problems))
    if table.parts is not None and tensors:
        fields |= table.parts(tensors)
    context = fields.get("max_positions", config.get(table.context))
    return Described(family, nested(fields), context, config.get("dtype") or config.get("torch_dtype"))


def write(family: str, fields: Mapping[str, Any], shapes: Shapes, *, context: int, dtype: str) -> dict[str, Any]:
    """Return the config.json of a model of ours.

    Args:
        family: its name in `FIELDS`.
        fields: the section `model`, nested, without its name.
        shapes: of its parameters by path, from which derived sizes are taken.
        context: the longest text that it was made for, in tokens.
        dtype: of the stored tensors, such as "bfloat16".

    Raises:
        UserError: the family has no config.json, or its own cannot say what is in the fields.
    """
    table: FieldMap = lookup(FIELDS, family, "model.name of an export")
    config = {"architectures": [table.architecture], "model_type": table.model_type, table.context: context}
    config |= {"is_encoder_decoder": True} if table.source else {}
    for entry in table.entries:
        config |= entry.write(flat(fields), shapes)
    return {**config, "dtype": dtype, "torch_dtype": dtype}


def flat(fields: Mapping[str, Any], prefix: str = "") -> Fields:
    """Return nested fields by dotted names."""
    out: Fields = {}
    for name, value in fields.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return out


def nested(fields: Fields) -> dict[str, Any]:
    """Return dotted fields as nested dictionaries."""
    out: dict[str, Any] = {}
    for name, value in fields.items():
        *parents, last = name.split(".")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return out
