"""chat: one answer, a conversation, its end and its interruption, and what is refused."""

import io
import json
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer as Engine

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core.table import lookup
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import generate
from llm_jax.interop import configs, safetensors
from llm_jax.interop.names import NAMES, slots
from llm_jax.interop.safetensors import Info
from llm_jax.models import MODELS
from llm_jax.run.config import construct
from llm_jax.text import chat, tokenizers

CONFIG = {
    "model_type": "llama", "vocab_size": 280, "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 24, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ raise_exception('no rudeness') if 'rude' in m.content }}"
    "{{ m.content }}<|im_end|>{% endfor %}<|im_start|>"
)
QUICK = ["--greedy", "--tokens=6"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """An imported llama of random weights that chats."""
    folder = tmp_path_factory.mktemp("chat")
    source = folder / "source"
    source.mkdir()
    described = configs.read(CONFIG)
    model = construct(lookup(MODELS, "llama", "family"), described.fields)
    table = slots(lookup(NAMES, "llama", "names"), {p: d.shape for p, d in model.declarations().items()})
    draw = np.random.default_rng(0)
    tensors = {n: draw.standard_normal(s.rule.shape(s.shapes), np.float32) * 0.5 for n, s in table.items()}
    safetensors.write(source, {n: Info(t.shape, t.dtype) for n, t in tensors.items()}, tensors.items(), 1 << 30)
    words = tokenizers.build("bpe", {"vocab_size": 262}, lambda: ["the people of the union"] * 3)
    engine = Engine.from_str(words.files["tokenizer.json"].decode())
    engine.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    engine.save(str(source / "tokenizer.json"))
    (source / "config.json").write_text(json.dumps(CONFIG))
    (source / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": TEMPLATE}))
    assert main(["import", str(source), f"--workdir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture
def talk(workdir, monkeypatch, capsys):
    """Run the verb on lines that are typed; return its code, what it said, and what it noted."""

    def run(*flags, lines=(), place=workdir):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        capsys.readouterr()
        code = main(["chat", f"--workdir={place}", *flags])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def wanted(workdir):
    """The ids of an answer to messages, drawn greedily without any stop."""
    opened = open_run(workdir)

    def run(*contents, tokens=6):
        roles = ["user", "assistant"] * len(contents)
        messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
        ids = chat.encode(TEMPLATE, opened.tokenizer, messages)
        (made,) = generate(
            opened.model,
            opened.params(),
            [ids],
            max_new_tokens=tokens,
            settings=Sampling(temperature=0.0),
            vocab_size=264,
        )
        return made, opened.tokenizer.decode(made)

    return run


def test_one_message_is_answered_and_only_the_answer_is_written(talk, wanted):
    assert talk("--message=the people", *QUICK) == (0, wanted("the people")[1] + "\n", "")


def test_a_system_message_changes_the_answer(talk):
    plain, told = (talk("--message=the people", *QUICK, *more)[1] for more in ([], ["--system=of the union"]))
    assert plain != told


def test_the_seed_decides_the_draws(talk):
    first, again, other = (
        talk("--message=x", "--tokens=6", "--temperature=3.0", "--top_k=50", "--top_p=0.9", f"--seed={s}")[1]
        for s in (1, 1, 2)
    )
    assert first == again != other


def test_turns_are_remembered_until_reset(talk, wanted):
    code, out, err = talk(*QUICK, lines=["the people", "", "of", "/reset", "of", "/nonsense", "/quit", "never read"])
    first = wanted("the people")[1]
    assert code == 0
    assert out == "".join(f"{t}\n" for t in (first, wanted("the people", first, "of")[1], wanted("of")[1]))
    assert "begins anew" in err and "/nonsense is not a command" in err


def test_the_end_of_input_ends_the_chat(talk):
    assert talk(*QUICK)[:2] == (0, "")


@pytest.mark.parametrize("listed", [True, False])
def test_every_end_token_of_the_generation_config_ends_an_answer(talk, wanted, workdir, tmp_path, listed):
    ids, _ = wanted("the people")
    cut = next(n for n in range(1, 6) if ids[n] not in ids[:n])
    place = shutil.copytree(workdir, tmp_path / "run")
    ends = [263, ids[cut]] if listed else ids[cut]
    (place / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    expected = open_run(workdir).tokenizer.decode(ids[:cut])
    assert talk("--message=the people", *QUICK, place=place)[1] == expected + "\n"


class Interrupting(io.StringIO):
    """A terminal where Ctrl-C is pressed as so many characters of the first answer have come."""

    pressed: int | None = None

    def write(self, text):
        written = super().write(text)
        if self.pressed is None and len(self.getvalue()) >= 2:
            self.pressed = len(self.getvalue())
            raise KeyboardInterrupt
        return written


def test_an_interrupt_ends_the_answer_and_keeps_the_chat(talk, wanted, monkeypatch):
    screen = Interrupting()
    monkeypatch.setattr("sys.stdout", screen)
    code, _, err = talk(*QUICK, lines=["the people", "of"])
    said = screen.getvalue()
    cut = screen.pressed
    assert said[:cut] == wanted("the people")[1][:cut] and cut < len(wanted("the people")[1])
    assert code == 0 and "interrupted" in err
    assert said[cut:] == wanted("the people", said[:cut], "of")[1] + "\n"


def test_the_oldest_turns_leave_when_there_is_no_room_which_is_said_once(talk):
    code, out, err = talk("--greedy", "--tokens=6", lines=["the people of the union"] * 9)
    assert code == 0 and len(out) > 9 and err.count("longer than the model reads") == 1


def test_a_message_without_room_is_refused_and_the_chat_goes_on_with_its_turns(talk, wanted):
    code, out, err = talk(*QUICK, lines=["the people", "xyz" * 40, "rude", "of"])
    first = wanted("the people")[1]
    assert (code, out) == (0, first + "\n" + wanted("the people", first, "of")[1] + "\n")
    assert "exceeds the model's 64 positions; shorten it" in err and "no rudeness" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--message= "], ["--message is empty"]),
        (["--message=" + "xyz" * 40, *QUICK], ["exceeds the model's 64 positions"]),
        (["--message=rude", *QUICK], ["refuses this conversation: no rudeness"]),
        (["--message=x", "--tokens=0"], ["sample.tokens=0"]),
        (["--message=x", "--top_p=2"], ["top_p=2"]),
        (["--message=x", "--seed=-1"], ["seed=-1"]),
        (["--message=x", "--step=7"], ["7"]),
        (["--mesage=x"], ["'--mesage' is not a flag", "--message"]),
        (["--config.seed=1"], ["belong to train"]),
    ],
)
def test_what_cannot_be_is_refused(talk, flags, words):
    code, out, err = talk(*flags)
    assert (code, out) == (2, "")
    assert all(word in err for word in words) and "Traceback" not in err, err


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("chat_template.jinja", "has no chat_template.jinja"), ("tokenizer", "has no tokenizer/"),
        ("checkpoints", "checkpoint"), ("config.json", "has no config.json"),
    ],
)  # fmt: skip
def test_a_workdir_that_cannot_chat_says_what_is_missing(talk, workdir, tmp_path, missing, words):
    place = shutil.copytree(workdir, tmp_path / "run")
    gone = place / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    code, out, err = talk("--message=x", place=place)
    assert (code, out) == (2, "") and words in err, err


@pytest.mark.parametrize(
    ("said", "stops"), [({}, [263]), ({"eos_token_id": None}, [263]), ({"eos_token_id": 4}, [4, 263]),
                        ({"eos_token_id": [5, 263, 4]}, [4, 5, 263])],
)  # fmt: skip
def test_the_ends_of_a_generation_config_are_read_in_every_form(workdir, tmp_path, said, stops):
    place = shutil.copytree(workdir, tmp_path / "run")
    (place / "generation_config.json").write_text(json.dumps(said))
    assert open_run(place).stops == stops
