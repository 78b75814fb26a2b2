"""Hugging Face's config.json and the fields of our models, one two-way map per family, as data.

A map is a tuple of entries (see `fields`). `read` and `write` turn one side into the other; a key that no entry takes,
and that is not known to change nothing, is refused, since it may change the maths. Both dialects are read: that of
transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and that of 5 (`rope_parameters`, `dtype`); what is written
holds both.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from llm_jax.core.table import UserError, choices, lookup
from llm_jax.interop.fields import FieldMap, Fields, Json, Shapes, flat, nested

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
