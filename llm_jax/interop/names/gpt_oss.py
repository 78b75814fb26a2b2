"""gpt-oss of Hugging Face: Llama's names with biases and sinks; all experts in one tensor, gate and up in turn."""

from llm_jax.interop.names import NameMap, Rule, in_turn, linear, same, vector
from llm_jax.interop.names.llama import LAYER, attention, outside

MLP, ATTENTION = f"{LAYER}.mlp", f"{LAYER}.self_attn"


def _block(stack: str) -> tuple[Rule, ...]:
    experts = f"{stack}/mlp/experts"
    return (
        *attention(stack),
        *(vector(f"{ATTENTION}.{n[0]}_proj.bias", f"{stack}/attention/{n}_bias") for n in ("query", "key", "value")),
        same(f"{ATTENTION}.o_proj.bias", f"{stack}/attention/out_bias"),
        same(f"{ATTENTION}.sinks", f"{stack}/attention/sinks"),
        linear(f"{MLP}.router.weight", f"{stack}/mlp/router/kernel"),
        same(f"{MLP}.router.bias", f"{stack}/mlp/router/bias"),
        in_turn(f"{MLP}.experts.gate_up_proj", f"{experts}/gate", f"{experts}/up"),
        in_turn(f"{MLP}.experts.gate_up_proj_bias", f"{experts}/gate_bias", f"{experts}/up_bias"),
        same(f"{MLP}.experts.down_proj", f"{experts}/down"),
        same(f"{MLP}.experts.down_proj_bias", f"{experts}/down_bias"),
    )


NAMES = NameMap(
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    rules=(*outside(), *_block("local_blocks"), *_block("global_blocks")),
)
