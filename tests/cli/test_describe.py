"""What `describe`, `configs` and the help say; nothing is read, compiled or written."""

import pytest

from llm_jax.cli import VERBS, main


def test_describe_prints_every_value_with_its_origin_and_every_parameter(recipe, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert main(["describe", f"--config={recipe}", "--config.model.num_layers=3"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert lines["model.num_layers"].split()[1:] == ["3", "command", "line"]
    assert lines["model.embed_dim"].split()[1:] == ["32", "recipe"]
    assert lines["optimizer.b1"].endswith("default")
    assert "8 = embed_dim / num_heads" in lines["model.head_dim"]
    assert "257" in lines["model.vocab_size"]
    assert "3x32x64" in lines["blocks/mlp/up"] and "layer embed mlp" in lines["blocks/mlp/up"]
    assert f"{3 * 32 * 64 * 4:,} bytes" in lines["blocks/mlp/up"]
    total = 2 * 257 * 32 + 3 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32
    assert f"{total:,} parameters" in out and "FLOPs" in out
    assert f"{40 * 8 * 32:,} tokens" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_describe_shows_where_parameters_are_on_a_mesh(recipe, capsys):
    assert main(["describe", f"--config={recipe}", "--config.mesh.fsdp=2", "--config.mesh.tensor=4"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  blocks/mlp/up"))
    assert "'fsdp'" in line and "'tensor'" in line


def test_configs_lists_the_recipes_with_a_line_each(recipe, capsys):
    (recipe.parent / "broken.py").write_text("def (")
    assert main(["configs", f"--under={recipe.parent}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "not Python" in lines[0] and lines[1].endswith("A recipe as small as it can be.")


def test_help_names_the_verbs_and_their_flags(capsys):
    assert main(["--help"]) == 0 and main([]) == 2
    out = capsys.readouterr().out
    assert all(out.count(what) == 2 for what in VERBS.values())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0 and f"llm_jax {verb}" in capsys.readouterr().out
