"""A manifest is read as it was written, or refused."""

import json
import math

import pytest
from etils import epath

from llm_jax.core.table import UserError
from llm_jax.store import manifest
from llm_jax.store.manifest import CorruptCheckpointError, Leaf, Manifest, dump, parse

EXAMPLE = Manifest(
    step=7,
    leaves={"params/a": Leaf((2, 3), "bfloat16", 2**64 - 1), "key": Leaf((), "key<fry>", 5)},
    files={"arrays/d/0": 12},
    metrics={"loss": 0.1 + 0.2, "diverged": math.inf},
    prng={"key": {"impl": "threefry2x32", "data": [1, 2]}},
    config_hash="abc",
    data_position=2**53 + 1,
    code_version="1.0",
    notes={"note": "naïve"},
)


def resigned(**changes):
    """A manifest with other content and a checksum that fits: what a crafted file looks like."""
    content = {k: v for k, v in json.loads(dump(EXAMPLE)).items() if k != "sha256"} | changes
    return json.dumps({"sha256": manifest._checksum(content), **content})


def test_a_manifest_reads_back_as_it_was_written(tmp_path):
    manifest.write(epath.Path(tmp_path), EXAMPLE)
    assert manifest.read(epath.Path(tmp_path)) == EXAMPLE


def test_every_changed_byte_is_refused_or_harmless():
    text = dump(EXAMPLE)
    for i in range(len(text)):
        for flip in (1, 16):
            try:
                assert parse(text[:i] + chr(ord(text[i]) ^ flip) + text[i + 1 :], "x") == EXAMPLE
            except CorruptCheckpointError:
                continue


def test_a_truncated_manifest_is_refused():
    text = dump(EXAMPLE).rstrip()
    for end in range(0, len(text), 7):
        with pytest.raises(CorruptCheckpointError):
            parse(text[:end], "x")


def test_a_missing_manifest_is_corrupt(tmp_path):
    with pytest.raises(CorruptCheckpointError, match="missing"):
        manifest.read(epath.Path(tmp_path))


def test_a_later_format_asks_for_a_newer_program():
    with pytest.raises(UserError, match=r"format 2; this program reads up to 1"):
        parse(resigned(format=2), "x")


@pytest.mark.parametrize("path", ["../x", "a//b", "/etc/passwd", "a/./b", "", "a\x00b", "a\\b", "a/.."])
def test_a_path_that_leads_elsewhere_is_refused(path):
    with pytest.raises(CorruptCheckpointError):
        parse(resigned(leaves={path: {"shape": [1], "dtype": "float32", "digest": "0"}}), "x")


@pytest.mark.parametrize(
    "change", [{"step": "7"}, {"step": True}, {"leaves": []}, {"extra": 1}, {"metrics": {"a": []}}]
)
def test_a_field_of_another_kind_is_refused(change):
    with pytest.raises(CorruptCheckpointError):
        parse(resigned(**change), "x")


@pytest.mark.parametrize("shape", [[-1], [1.5], "ab", [True], None])
def test_a_shape_that_is_none_is_refused(shape):
    with pytest.raises(CorruptCheckpointError):
        parse(resigned(leaves={"a": {"shape": shape, "dtype": "float32", "digest": "0"}}), "x")
