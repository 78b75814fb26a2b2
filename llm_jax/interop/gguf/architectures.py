"""llama.cpp's architectures in the words of Hugging Face, as data: metadata, names and layouts of tensors.

What llama.cpp computes without being told stands in `implied`; a model that means otherwise cannot be written.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from llm_jax.interop.fields import Json, flat
from llm_jax.interop.gguf.header import package
from llm_jax.interop.rope import WORDS
from llm_jax.nn.rotary import Rope, frequencies


def usual(config: Json) -> dict[str, Any]:
    """What every architecture takes where the metadata are silent."""
    width, heads = config.get("hidden_size") or 0, config.get("num_attention_heads") or 1
    return {"rope_theta": 10_000.0, "num_key_value_heads": heads, "head_dim": width // heads}


def scores_of(largest: int) -> Callable[[Json], dict[str, Any]]:
    """Gemma's: scores are divided by the root of the head's size, in the largest model of that of width / heads."""

    def implied(config: Json) -> dict[str, Any]:
        found = usual(config) | dict(config)
        wide = found["num_hidden_layers"] == largest
        return usual(config) | {"query_pre_attn_scalar": usual(config)["head_dim"] if wide else found["head_dim"]}

    return implied


def all_sparse(config: Json) -> dict[str, Any]:
    """Qwen 3 MoE's: every layer has experts, whose weights add up to one."""
    return usual(config) | {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp says what Hugging Face says.

    name: `general.architecture`. model_type: of config.json. keys: {metadata key after "NAME.": key of config.json,
    dotted where it is nested}. turned: tensors whose rows interleave the two halves of each head. shifted: norms are
    stored plus one. implied: keys of config.json from those that are said. mark: the metadata key by which a file is of
    this family, of several with one name. factors: the tensor by which Llama 3 divides its frequencies.
    """

    name: str
    model_type: str
    keys: Mapping[str, str]
    turned: tuple[str, ...] = ()
    shifted: bool = False
    implied: Callable[[Json], dict[str, Any]] = usual
    mark: str = ""
    factors: str = ""

    def metadata(self, config: Json) -> dict[str, Any]:
        """Return {key after "NAME.": value} of what config.json says."""
        said = flat(config)
        if said.get("rope_scaling.rope_type") != "linear":  # Llama 3's is said by `factors`
            said = {key: value for key, value in said.items() if not key.startswith("rope_scaling.")}
        return {key: said[theirs] for key, theirs in self.keys.items() if said.get(theirs) is not None}


DECODER = {
    "vocab_size": "vocab_size", "block_count": "num_hidden_layers", "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps", "attention.key_length": "head_dim",
    "attention.value_length": "head_dim", "rope.freq_base": "rope_theta", "rope.scaling.type": "rope_scaling.rope_type",
    "rope.scaling.factor": "rope_scaling.factor",
}  # fmt: skip
LLAMA = DECODER | {"rope.dimension_count": "head_dim"}
EXPERTS = {"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}
QWEN3_MOE = DECODER | {
    "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}  # fmt: skip
GEMMA2 = DECODER | {
    "attention.sliding_window": "sliding_window", "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}  # fmt: skip
GEMMA3 = DECODER | {
    "attention.sliding_window": "sliding_window", "attention.sliding_window_pattern": "sliding_window_pattern",
    "rope.freq_base_swa": "rope_local_base_freq",
}  # fmt: skip
HEADS, FACTORS = ("attn_q", "attn_k"), "rope_freqs.weight"

ARCHITECTURES = (
    Architecture("gemma", "gemma", DECODER, shifted=True),
    Architecture("gemma2", "gemma2", GEMMA2, shifted=True, implied=scores_of(46)),
    Architecture("gemma3", "gemma3_text", GEMMA3, shifted=True, implied=scores_of(62)),
    Architecture("llama", "mixtral", LLAMA | EXPERTS, HEADS, mark="expert_count", factors=FACTORS),
    Architecture("llama", "llama", LLAMA, HEADS, factors=FACTORS),
    Architecture("llama", "mistral", LLAMA, HEADS, implied=lambda config: usual(config) | {"sliding_window": None}),
    Architecture("qwen2", "qwen2", DECODER),
    Architecture("qwen3", "qwen3", DECODER),
    Architecture("qwen3moe", "qwen3_moe", QWEN3_MOE, implied=all_sparse),
)
"""All that can be exported; a file of one name is imported as the first that its metadata allow."""

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""How every published model stretches whose file has `factors`: the format holds their values alone."""


def form_of(metadata: Mapping[str, Any]) -> Architecture | None:
    """Return the architecture of a file, or None if it is none of these."""
    name = metadata.get("general.architecture")
    able = (form for form in ARCHITECTURES if form.name == name)
    return next((form for form in able if not form.mark or f"{name}.{form.mark}" in metadata), None)


def factors_of(config: Json) -> np.ndarray | None:
    """Return by how much Llama 3's scaling divides each frequency, float32 [K/2]; None of a model without it."""
    said = config.get("rope_scaling") or {}
    if said.get("rope_type") != "llama3":
        return None
    theta, size = config["rope_theta"], config["head_dim"]
    fields = {WORDS[key]: value for key, value in said.items() if key in WORDS}
    turned = cast(Any, Rope(theta, kind="llama3", **fields).frequencies(size))
    return np.asarray(frequencies(size, theta) / turned, np.float32)


class Place(NamedTuple):
    """Where a tensor lies in a file: its name there and, in a stack of experts, its number."""

    name: str
    expert: int | None = None


def places(name: str, rules: Iterable[str], layers: int, experts: int) -> dict[str, Place]:
    """Return {Hugging Face's name: Place} of all that the architecture has a place for.

    Args:
        name: of the architecture. rules: names with {layer} and {expert}. layers, experts: how many there are.
    """
    gguf = package()
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[name], 1)  # all layers are named like the first
    found: dict[str, Place] = {}
    for rule in rules:
        theirs = table.get_name(rule.replace(".{expert}", "").format(layer=0), (".weight", ".bias"))
        if theirs is None:
            continue
        numbers: Sequence[int | None] = range(experts) if "{expert}" in rule else (None,)
        for layer in range(layers) if "{layer}" in rule else (0,):
            place = theirs.replace("blk.0.", f"blk.{layer}.")
            found |= {rule.format(layer=layer, expert=number): Place(place, number) for number in numbers}
    return found


def experts_of(config: Json) -> int:
    """Return how many experts a layer has: by one of two keys, or none."""
    return config.get("num_local_experts") or config.get("num_experts") or 0


def heads_of(config: Json) -> tuple[int, int]:
    """Return how many heads queries and keys have."""
    heads = config["num_attention_heads"]
    return heads, config.get("num_key_value_heads") or heads


def from_file(values: np.ndarray, name: str, form: Architecture, heads: Sequence[int]) -> np.ndarray:
    """Return a tensor in Hugging Face's layout; heads: of queries, of keys."""
    part = name.split(".")[-2]
    if part in form.turned:
        count = heads[form.turned.index(part)]
        pairs = values.reshape(count, values.shape[0] // count // 2, 2, *values.shape[1:])
        return pairs.swapaxes(1, 2).reshape(values.shape)
    return values - 1 if form.shifted and part.endswith("norm") else values


def to_file(values: np.ndarray, name: str, form: Architecture, heads: Sequence[int]) -> np.ndarray:
    """Undo `from_file`."""
    part = name.split(".")[-2]
    if part in form.turned:
        count = heads[form.turned.index(part)]
        halves = values.reshape(count, 2, values.shape[0] // count // 2, *values.shape[1:])
        return halves.swapaxes(1, 2).reshape(values.shape)
    return values + 1 if form.shifted and part.endswith("norm") else values
