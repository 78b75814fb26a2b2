"""What the names and fields of BERT and RoBERTa share."""

from collections.abc import Callable, Collection

from llm_jax.core.table import UserError
from llm_jax.interop.fields import Entry, Fields, Json, Shapes, field, harmless, only
from llm_jax.interop.names.rules import Rule, linear, same, vector

OLD = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""Endings of names in files that TensorFlow's were turned into."""


def encoder(prefix: str) -> tuple[Rule, ...]:
    """Rules of the encoder and its pooler, all but the table of positions; `prefix` ends with a dot."""
    layer, table = f"{prefix}encoder.layer.{{layer}}", f"{prefix}embeddings"
    kernels = [
        rule
        for name, part in (("query", "query"), ("key", "key"), ("value", "value"))
        for rule in (
            linear(f"{layer}.attention.self.{name}.weight", f"blocks/attention/{part}"),
            vector(f"{layer}.attention.self.{name}.bias", f"blocks/attention/{part}_bias"),
        )
    ]
    return (
        same(f"{table}.word_embeddings.weight", "embed/tokens"),
        same(f"{table}.token_type_embeddings.weight", "embed/types"),
        *norm(f"{table}.LayerNorm", "embed/norm"),
        *kernels,
        linear(f"{layer}.attention.output.dense.weight", "blocks/attention/out", inputs=2),
        vector(f"{layer}.attention.output.dense.bias", "blocks/attention/out_bias"),
        *norm(f"{layer}.attention.output.LayerNorm", "blocks/attention_norm"),
        linear(f"{layer}.intermediate.dense.weight", "blocks/mlp/up"),
        vector(f"{layer}.intermediate.dense.bias", "blocks/mlp/up_bias"),
        linear(f"{layer}.output.dense.weight", "blocks/mlp/down"),
        vector(f"{layer}.output.dense.bias", "blocks/mlp/down_bias"),
        *norm(f"{layer}.output.LayerNorm", "blocks/mlp_norm"),
        linear(f"{prefix}pooler.dense.weight", "pooler/kernel"),
        vector(f"{prefix}pooler.dense.bias", "pooler/bias"),
    )


def head(dense: str, normed: str, bias: str) -> tuple[Rule, ...]:
    """Rules of the head of masked tokens, whose table is that of the tokens."""
    return (
        linear(f"{dense}.weight", "head/kernel"),
        vector(f"{dense}.bias", "head/kernel_bias"),
        *norm(normed, "head/norm"),
        vector(bias, "head/bias"),
    )


def norm(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """Rules of a LayerNorm."""
    return same(f"{theirs}.weight", f"{ours}/scale"), same(f"{theirs}.bias", f"{ours}/bias")


def fields(eps: float, types: int) -> tuple[Entry, ...]:
    """Entries of all keys that both have, with what transformers takes where they are missing."""
    return (
        field("vocab_size", "vocab_size"),
        field("type_vocab_size", "num_types", default=types),
        field("num_hidden_layers", "num_layers", default=12),
        field("hidden_size", "embed_dim", default=768),
        field("num_attention_heads", "num_heads", default=12),
        field("intermediate_size", "mlp_dim", default=3072, size=("blocks/mlp/up", 2)),
        field("layer_norm_eps", "norm_eps", default=eps),
        field("hidden_dropout_prob", "dropout", default=0.1),
        only("hidden_act", "gelu"),
        only("position_embedding_type", "absolute"),
        only("is_decoder", False),
        only("add_cross_attention", False),
        only("tie_word_embeddings", True),
        harmless("attention_probs_dropout_prob", "directionality", "pooler_fc_size", "pooler_num_attention_heads"),
        harmless("pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"),  # of Google's, read by nobody
    )


def parts(
    heads: str, both: str | None = None, *, named: dict[tuple[bool, bool], str]
) -> tuple[Callable[[Collection[str]], Fields], Entry]:
    """How the parts of a model are found: by names of its tensors, or, without them, by its class.

    Args:
        heads: how names of the head begin. both: the name of a tensor that a model with head and pooler has beside.
        named: {(head, pooler): class of transformers}.
    """

    def of_tensors(names: Collection[str]) -> Fields:
        has_head = any(name.startswith(heads) for name in names)
        pooled = any(name.endswith("pooler.dense.weight") for name in names)
        return {"head": has_head, "pooler": pooled and (not has_head or both in names)}

    def read(config: Json) -> Fields:
        said = config.get("architectures") or []
        found = next((key for key, name in named.items() if name in said), (True, False))
        return {"head": found[0], "pooler": found[1]}

    def write(ours: Fields, shapes: Shapes) -> dict[str, list[str]]:
        found = any(path.startswith("head/") for path in shapes), any(path.startswith("pooler/") for path in shapes)
        if found not in named:
            raise UserError(
                "transformers has no model of this family with a head of masked tokens and one of the order of "
                "sentences; train it with model.pooler=False to export it, or choose bert"
            )
        return {"architectures": [named[found]]}

    return of_tensors, Entry(("architectures",), read, write)
