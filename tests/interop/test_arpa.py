"""ARPA files of counted models: what stands in them, and what others make of them."""

import jax
import numpy as np
import optax
import pytest

from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.interop.arpa import reader, writer
from llm_jax.learn.counting import counting, ready
from llm_jax.models.classical.backoff import Backoff
from llm_jax.models.classical.ngram import Ngram
from llm_jax.objectives.causal import Causal

V = 30
rng = np.random.default_rng(2)
TEXT = (rng.integers(0, V, 1200) * rng.integers(0, 2, 1200) % V).astype(np.int32).reshape(2, 600)


def counted(**more):
    model = Ngram(**{"vocab_size": V, "order": 3, "capacity": 4096, "buffer": 2000} | more)
    learner = counting(model, Causal(), optax.identity(), microbatches=1, batch_size=2)
    state, _ = jax.jit(learner.update)(learner.init(jax.random.key(0)), {"tokens": TEXT})
    return model, ready(model, state.params)


def log10s(model, params, tokens):
    """log10 p of each token from the second on, by the model."""
    logits = jax.jit(lambda p, b: model.apply(p, b).logits)(params, {"tokens": tokens[None, :-1]})[0]
    return np.asarray(logits)[np.arange(len(tokens) - 1), tokens[1:]] / np.log(10)


@pytest.mark.parametrize("options", [{"order": 1}, {"order": 2}, {"order": 4}, {"order": 3, "min_count": 2}])
def test_backing_off_through_the_tables_gives_the_probabilities_of_the_model(options):
    model, params = counted(**options)
    found, text = writer.orders(model, params), rng.integers(0, V, 60).astype(np.int32)
    expected = log10s(model, params, text)
    for at in range(max(1, model.order - 1), 60):
        (value,) = writer.looked_up(found, text[None, at + 1 - model.order : at + 1])
        assert abs(value - expected[at - 1]) < 1e-5


def test_a_file_says_how_many_it_holds_and_every_line_has_its_form(tmp_path):
    model, params = counted()
    found = writer.orders(model, params)
    writer.write(tmp_path / "a.arpa", found)
    text = (tmp_path / "a.arpa").read_text().splitlines()
    assert text[0] == "\\data\\" and text[-1] == "\\end\\"
    assert text[1:4] == [f"ngram {n}={len(part.tokens) + 3 * (n == 1)}" for n, part in enumerate(found, 1)]
    sections = [text.index(f"\\{n}-grams:") for n in (1, 2, 3)] + [len(text)]
    for n in (1, 2, 3):
        grams = [line.split("\t") for line in text[sections[n - 1] + 1 : sections[n]] if "\t" in line]
        assert len(grams) == len(found[n - 1].tokens) + 3 * (n == 1)
        assert all(len(gram) == (2 if n == 3 else 3) and len(gram[1].split()) == n for gram in grams)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_kenlm_gives_the_same_probabilities(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    model, params = counted(order=4)
    writer.write(tmp_path / "a.arpa", writer.orders(model, params))
    theirs, text = kenlm.Model(str(tmp_path / "a.arpa")), TEXT[0, 100:180]
    scores = [s for s, _, _ in theirs.full_scores(" ".join(map(str, text)), bos=False, eos=False)]
    np.testing.assert_allclose(scores[3:], log10s(model, params, text)[2:], atol=1e-5)


@pytest.mark.parametrize("options", [{"order": 0}, {"smoothing": "add_k"}])
def test_what_does_not_back_off_is_refused(options):
    with pytest.raises(UserError, match="Kneser-Ney"):
        writer.orders(*counted(**options))


TOY = """a comment
\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.3
-0.6\t</s>
-0.4\tsea\t-0.2
-0.7\tship

\\2-grams:
-0.1\t<s> sea
-0.25\tsea ship
-0.5\tsea </s>

\\end\\
"""


def imported(path):
    """A model of what a file holds, its parameters, and its tokenizer."""
    found = reader.source(path)
    params = tree.unflatten({name: found.tensors.read(name) for name in found.tensors.infos})
    return Backoff(found.config["vocab_size"], tuple(found.config["sizes"])), params, found.tokenizer


def test_what_was_written_is_read_and_says_the_same(tmp_path):
    model, params = counted(order=4)
    writer.write(tmp_path / "a.arpa", writer.orders(model, params))
    again, made, words = imported(tmp_path / "a.arpa")
    assert again.vocab_size == V and words is None  # none lies beside it
    expected = log10s(model, params, TEXT[0, 100:180])
    np.testing.assert_allclose(log10s(again, made, TEXT[0, 100:180])[2:], expected[2:], atol=1e-5)


def test_a_file_of_words_backs_off_as_it_says(tmp_path):
    (tmp_path / "a.arpa").write_text(TOY)
    model, params, words = imported(tmp_path / "a.arpa")
    ids = np.array([*words.frame[0], *words.encode("sea sea ship"), words.eos_id, *words.encode("ship")])
    assert words.encode("sea whale <s>").tolist() == [3, 0, 0, 0]  # what is typed is no control token
    np.testing.assert_allclose(log10s(model, params, ids), [-0.1, -0.2 - 0.4, -0.25, -0.6, -0.7], atol=1e-6)


ODD = {
    "line ends of windows and a mark of the byte order": "\ufeff"
    + TOY.removeprefix("a comment\n").replace("\n", "\r\n"),
    "spaces for tabs, and about the sign": TOY.replace("\t", "  ").replace("ngram 2=3", "ngram\t2 = 3"),
    "no empty lines, and what follows the end": TOY.replace("\n\n", "\n") + "what a program said\n",
    "a weight of nothing in the last order": TOY.replace("sea ship", "sea ship\t0"),
    "an order without any n-gram": TOY.replace("2=3", "2=3\nngram 3=0").replace("\\end", "\\3-grams:\n\n\\end"),
    "an impossible word": TOY.replace("-99\t<s>", "-inf\t<s>"),
    "the unknown in capitals": TOY.replace("<unk>", "<UNK>"),
    "words in which other white space stands": TOY.replace("ship", "s\u00a0h\u2028i\u3000p"),
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_a_file_of_odd_but_legal_lines_says_the_same(text, tmp_path):
    (tmp_path / "a.arpa").write_bytes(text.encode())
    model, params, words = imported(tmp_path / "a.arpa")
    assert np.isfinite(params["1"]["log_p"]).all()
    said = "sea sea " + text[text.index("sea s") + 4 :].partition("\n")[0].partition("\t")[0].rstrip("\r")
    ids = np.array([*words.frame[0], *words.encode(said), words.eos_id, *words.encode("whale")])
    np.testing.assert_allclose(log10s(model, params, ids), [-0.1, -0.2 - 0.4, -0.25, -0.6, -1.0], atol=1e-6)
    assert words.decode(ids) == f"{said} {'<UNK>' if '<UNK>' in text else '<unk>'}"


def test_without_a_word_for_the_unknown_it_is_one_that_is_never_said(tmp_path):
    """As KenLM takes such files; of a single word, too."""
    (tmp_path / "a.arpa").write_text("\\data\\\nngram 1=1\n\n\\1-grams:\n0\tsea\n\n\\end\\\n")
    model, params, words = imported(tmp_path / "a.arpa")
    ids = words.encode("sea sea whale")
    assert ids.tolist() == [0, 0, 1]
    np.testing.assert_allclose(log10s(model, params, ids), [0, -99], rtol=1e-6)


def test_a_file_of_markers_alone_is_one_of_words(tmp_path):
    text = TOY[: TOY.index("-0.4\tsea")].replace("1=5\nngram 2=3", "1=3").replace("\t-0.3", "") + "\\end\\\n"
    (tmp_path / "a.arpa").write_text(text)
    model, params, words = imported(tmp_path / "a.arpa")
    np.testing.assert_allclose(log10s(model, params, np.array([*words.frame[0], words.eos_id])), [-0.6], rtol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", "a.arpa:18: the file ends"),
        ("ngram 2=3", "ngram 3=3", "a.arpa:4: 'ngram 3=3' should be the number of n-grams of order 2"),
        ("ngram 2=3", "ngram 2=4", "should be log10 p, 2 words"),
        ("ngram 2=3", "ngram 2=2", "a.arpa:16: '-0.5\\tsea </s>' should be"),
        ("-0.5\tsea </s>", "-0.5\tsea whale", "a.arpa:16: the word 'whale' is no unigram"),
        ("-0.5\tsea </s>", "half\tsea </s>", "a.arpa:16: 'half sea </s>' has what is no number"),
        ("-0.5\tsea </s>", "-0.5\tsea ship", "order 2 above comes twice"),
        ("-0.5\tsea </s>", "nan\tsea </s>", "a.arpa:16: 'nan sea </s>': log10 p should be at most 0"),
        ("-0.5\tsea </s>", "0.5\tsea </s>", "a.arpa:16: '0.5 sea </s>': log10 p should be at most 0"),
        ("-0.5\tsea </s>", "-0.5\tsea </s>\t-1", "of the last order 0 or none"),
        ("sea\t-0.2", "sea\tinf", "the weight finite"),
        ("ngram 1=5", "ngram 1=0", "there are no words"),
        ("-0.7\tship", "-0.7\tsea", "a.arpa:11: the word 'sea' comes twice"),
        ("\\end\\", "", "the file ends before"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_with_the_line(old, new, message, tmp_path):
    (tmp_path / "a.arpa").write_text(TOY.replace(old, new))
    with pytest.raises(UserError) as told:
        reader.read(tmp_path / "a.arpa")
    assert message in str(told.value)


def test_a_file_becomes_a_workdir_that_writes(tmp_path, capsys):
    (tmp_path / "a.arpa").write_text(TOY)
    assert main(["import", str(tmp_path / "a.arpa"), f"--workdir={tmp_path / 'run'}"]) == 0
    for how in ("--greedy", "--beams=2"):
        capsys.readouterr()
        assert main(["sample", f"--workdir={tmp_path / 'run'}", "--prompt=sea", "--tokens=1", how]) == 0
        assert capsys.readouterr().out == "sea ship\n"
    assert main(["export", f"--workdir={tmp_path / 'run'}", f"--to={tmp_path / 'out'}"]) == 2
    assert "model.name='backoff' has no class in transformers; n-grams" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "b.arpa"), f"--workdir={tmp_path / 'other'}"]) == 2
    assert "b.arpa is not there" in capsys.readouterr().err
