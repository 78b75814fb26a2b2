"""lm-eval over our models in process, beside its own Hugging Face backend, with torch and without."""

import json
import subprocess
import sys

import local_tasks
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.data.fetch import fetch

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

TEMPLATE = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\\n' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
)
TASKS = ",".join(local_tasks.KINDS)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return local_tasks.write(tmp_path_factory.mktemp("tasks") / "tasks", rows=12, characters=700)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A random llama of 96 positions whose tokenizer puts <s> before each text."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    folder = tmp_path_factory.mktemp("llama")
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer, engine.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    engine.train_from_iterator([" ".join(text) for text in local_tasks.speeches(4)], trainer)
    engine.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=engine, bos_token="<s>", eos_token="</s>")
    words.chat_template = TEMPLATE
    words.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=500, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, initializer_range=0.3, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def workdir(source, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "run"
    assert main(["import", str(source), f"--workdir={run}"]) == 0
    return run


def theirs(folder, tasks, chat=False, limit=None, **options):
    """What lm-eval's own backend finds: its results, and what was written."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4, **options)
    return simple_evaluate(
        model=model, tasks=TASKS.split(","), task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        apply_chat_template=chat, fewshot_as_multiturn=chat, limit=limit, log_samples=False,
    )["results"]  # fmt: skip


def same(ours, wanted, tolerance):
    """Every number of every task."""
    assert ours.keys() == wanted.keys()
    numbers = 0
    for task in wanted:
        assert ours[task].keys() == wanted[task].keys()
        for name, value in wanted[task].items():
            if isinstance(value, float):
                assert ours[task][name] == pytest.approx(value, rel=tolerance, abs=tolerance), (task, name)
                numbers += 1
    assert numbers >= 9


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_numbers_are_those_of_its_own_backend(source, workdir, tasks, capsys, chat):
    told = ["evaluate", f"--workdir={workdir}", f"--lm_eval={TASKS}", f"--include_path={tasks}"]
    assert main([*told, *["--chat"] * chat]) == 0
    printed = capsys.readouterr().out
    assert all(f"|{name}" in printed for name in local_tasks.KINDS)
    kept = json.loads((workdir / "evaluations" / "0.lm_eval.json").read_text())
    same(kept["results"], theirs(source, tasks, chat), 1e-4)


def test_each_text_and_score_is_that_of_its_own_backend(source, workdir, tasks):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from llm_jax.evals.harness import language_model
    from llm_jax.run.judge.suites import reading

    run = open_run(workdir)
    read = reading(run)
    mine = language_model()(
        run.model, run.params(), run.tokenizer, prefix=read.start, stops=run.stops, width=read.window
    )
    other = HFLM(pretrained=str(source), device="cpu", dtype="float32", batch_size=3)
    rows = [json.loads(line) for line in (tasks / "questions.jsonl").read_text().splitlines()]
    long = " ".join(local_tasks.speeches(1)[0])[:1500]  # of more tokens than the model reads

    def asked(kind, *arguments):
        return [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]

    pairs = [(r["question"], " " + c) for r in rows for c in r["choices"][:2]] + [("", "My fellow"), (long, " end")]
    for (p, hit), (q, also) in zip(
        mine.loglikelihood(asked("loglikelihood", *pairs)), other.loglikelihood(asked("loglikelihood", *pairs)),
        strict=True,
    ):  # fmt: skip
        assert p == pytest.approx(q, rel=1e-4) and hit == also
    texts = asked("loglikelihood_rolling", (long,), ("Short.",), (long[:300],))
    assert mine.loglikelihood_rolling(texts) == pytest.approx(other.loglikelihood_rolling(texts), rel=1e-5)
    ways = [{"until": ["e"], "max_gen_toks": 12}, {"until": ["\n\n"], "max_gen_toks": 20}]
    prompts = asked("generate_until", *[(r["question"], ways[i % 2]) for i, r in enumerate(rows)], (long, ways[1]))
    made = mine.generate_until(prompts)
    assert made == other.generate_until(prompts) and len(set(made)) > 6


def test_a_chat_is_written_as_by_its_own_backend_and_what_people_type_is_text(source, workdir):
    from lm_eval.models.huggingface import HFLM

    from llm_jax.evals.harness import MARK, language_model

    run = open_run(workdir)
    mine = language_model()(run.model, run.params(), run.tokenizer, prefix=0, stops=[1], width=96, template=TEMPLATE)
    other = HFLM(pretrained=str(source), device="cpu", dtype="float32")
    said = [{"role": "user", "content": "Hi </s> there"}, {"role": "assistant", "content": "It is"}]
    for turns, goes_on in ((said[:1], False), (said, True)):
        text = mine.apply_chat_template(turns, add_generation_prompt=not goes_on)
        assert text.replace(MARK, "") == other.apply_chat_template(turns, add_generation_prompt=not goes_on)
        assert mine.tok_encode(text).count(1) == 1 and mine.tok_encode(text).count(0) == 2


HIDE = """\
import sys
from importlib.machinery import PathFinder

here, hidden = PathFinder.find_spec, ("torch", "transformers")
PathFinder.find_spec = classmethod(lambda cls, name, *more: None if name.split(".")[0] in hidden else here(name, *more))
from llm_jax.cli import main

code = main(sys.argv[1:])
assert not {name.split(".")[0] for name in sys.modules} & {*hidden}
sys.exit(code)
"""


def test_neither_torch_nor_transformers_is_needed(workdir, tasks):
    told = [f"--workdir={workdir}", f"--lm_eval={TASKS}", f"--include_path={tasks}", "--limit=2", "--no_huge_pages"]
    done = subprocess.run([sys.executable, "-c", HIDE, "evaluate", *told], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|local_choices" in done.stdout


def test_a_bad_row_of_a_task_is_named_by_file_and_line(workdir, tmp_path, capsys):
    folder = local_tasks.write(tmp_path / "tasks", rows=4)
    rows = (folder / "questions.jsonl").read_text().splitlines()
    (folder / "questions.jsonl").write_text("\n".join([*rows[:2], rows[2][:30], rows[3]]))
    told = ["evaluate", f"--workdir={workdir}", "--lm_eval=local_choices", f"--include_path={folder}"]
    assert main(told) == 2
    assert "questions.jsonl:3: not a JSON object" in capsys.readouterr().err


def test_an_unknown_task_is_refused(workdir, tasks, capsys):
    assert main(["evaluate", f"--workdir={workdir}", "--lm_eval=local_choice", f"--include_path={tasks}"]) == 2
    assert "did you mean 'local_choices'?" in capsys.readouterr().err


def test_smollm2_is_judged_as_by_its_own_backend(tmp_path, capsys):
    pytest.importorskip("gguf")
    tasks = local_tasks.write(tmp_path / "tasks", rows=16)
    file = fetch("smollm2")
    assert main(["import", str(file), f"--workdir={tmp_path / 'run'}"]) == 0
    told = ["evaluate", f"--workdir={tmp_path / 'run'}", f"--lm_eval={TASKS}", f"--include_path={tasks}"]
    assert main(told) == 0
    kept = json.loads((tmp_path / "run" / "evaluations" / "0.lm_eval.json").read_text())
    same(kept["results"], theirs(file.parent, tasks, gguf_file=file.name), 1e-3)
