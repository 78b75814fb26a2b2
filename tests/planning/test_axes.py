"""What each mesh axis sends and how long a pipeline idles: numbers worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llm_jax.planning import analytic, search, topology, workload
from llm_jax.planning.axes import links, schedule, shares
from llm_jax.planning.workload import Workload
from llm_jax.run.config import load_recipe, resolve

TOKENS, WIDTH, KEYS, LAYERS = 64 * 1024, 512, 128, 8
PLAIN = Workload(
    mesh={"data": 1, "fsdp": 4}, batch_size=64, seq_len=1024, microbatches=1, compute_dtype="bfloat16", remat="none",
    vocab_size=1000, parameters=10_000_000, table_parameters=1_000_000, layers=LAYERS, width=WIDTH, hidden=2048,
    kv_width=KEYS, flops_causal=6e7, flops_full=6.5e7, slots=2.0, tokens=None,
)  # fmt: skip
SPARSE = replace(PLAIN, expert_parameters=8_000_000, expert_layers=LAYERS, experts=8, choices=2.0)


def sent(w, axis):
    return {row.kind: row.sent for row in links.traffic(w) if row.axes == (axis,)}


def on(w=PLAIN, **mesh):
    return replace(w, mesh=mesh)


def test_fully_sharded_gathers_parameters_twice_and_scatters_gradients_once():
    assert sent(on(fsdp=4), "fsdp") == {"all-gather": 2 * 2e7 * 3 / 4, "reduce-scatter": 2e7 * 3 / 4}
    accumulated = replace(on(fsdp=4), microbatches=2)
    assert sent(accumulated, "fsdp")["all-gather"] == 2 * sent(on(fsdp=4), "fsdp")["all-gather"]


@pytest.mark.parametrize(
    ("name", "mesh", "kinds"),
    [
        ("v5e:8x8", {"fsdp": 64}, {"all-reduce": 6e7}),
        ("v5p:4x4x8", {"fsdp": 128}, {"all-reduce": 6e7}),
        ("v6e:16x16", {"fsdp": 256}, {"all-gather": 4e7, "all-reduce": 2e7}),
        ("v6e:16x16", {"data": 4, "fsdp": 64}, {"all-gather": 4e7, "reduce-scatter": 2e7}),
        ("v5e:4x8", {"fsdp": 32}, {"all-gather": 4e7, "reduce-scatter": 2e7}),
        ("h100:8x8", {"fsdp": 64}, {"all-gather": 4e7, "reduce-scatter": 2e7}),
    ],
)
def test_tpus_sum_what_is_split_over_more_than_32_chips_and_no_other_axis(name, mesh, kinds):
    chips, w = topology.parse(name), on(**mesh)
    n = mesh["fsdp"]
    wholes = {"all-gather": 0.0, "reduce-scatter": 0.0, "all-reduce": 0.0}
    for row in links.compiled(w, chips):
        if row.axes == ("fsdp",):
            wholes[row.kind] += row.whole
            assert row.sent == row.whole * (n - 1) / n * (2 if row.kind == "all-reduce" else 1)
    assert wholes == {kind: kinds.get(kind, 0.0) for kind in wholes}
    assert analytic.work(w, chips).traffic == tuple(links.compiled(w, chips))
    two = links.compiled(on(slice=2, **mesh), replace(chips, slices=2))
    assert [row for row in two if row.axes != ("slice",)] == links.compiled(w, chips)[: len(two) - 1]


@pytest.mark.parametrize("recipe", sorted(Path("configs/pods").glob("*.json")), ids=lambda path: path.stem)
def test_formulas_send_what_the_plans_of_the_recipes_do(recipe):
    """For which the compiler's programs were read, on slices of 256 chips; Gemma's tied table is gathered once."""
    plan = json.loads(recipe.read_text())
    chips = topology.parse(plan["topology"])
    rows = links.compiled(workload.of(resolve(load_recipe(str(recipe.with_suffix(".py")))), chips), chips)
    found = {row["kind"]: row["sent"] for row in plan["collectives"] if row["sent"] > 1e9}
    kinds = {row.kind for row in rows}
    assert {kind: sum(row.sent for row in rows if row.kind == kind) for kind in kinds} == pytest.approx(found, rel=0.13)


def test_copies_of_parameters_sum_their_gradients():
    assert sent(on(data=4), "data") == {"all-reduce": 2 * 2e7 * 3 / 4}
    assert sent(on(data=4, fsdp=2), "data") == {"all-reduce": 2 * 1e7 * 3 / 4}
    assert sent(on(context=2), "context")["all-reduce"] == 2 * 2e7 / 2
    assert sent(replace(on(slice=2), microbatches=4), "slice") == {"all-reduce": 2 * 2e7 / 2}  # once, after all parts


@pytest.mark.parametrize(("remat", "sums"), [("none", 4), ("full", 5)])
def test_tensor_sums_activations_four_times_a_layer_and_once_more_where_they_are_made_again(remat, sums):
    w = replace(on(data=2, tensor=4), remat=remat)
    whole = TOKENS / 2 * WIDTH * (sums * LAYERS * 2 + 4)  # the head's sum is float32
    table = 1000 * WIDTH * 2
    assert sent(w, "tensor") == {
        "all-reduce": whole * 2 * 3 / 4, "all-gather": table * 3 / 4, "reduce-scatter": table * 3 / 4,
    }  # fmt: skip


def test_a_ring_passes_keys_once_forwards_and_with_their_gradients_backwards():
    keys_and_values = 2 * (TOKENS / 4) * KEYS * 2 * LAYERS
    assert sent(on(context=4), "context")["collective-permute"] == 3 * 3 * keys_and_values
    again = replace(on(context=4), remat="full")
    assert sent(again, "context")["collective-permute"] == 3 * 4 * keys_and_values


def test_exchanged_heads_travel_there_and_back():
    w = replace(on(context=4), context_by="heads")
    whole = 2 * (TOKENS / 4) * (KEYS + WIDTH) * 2 * LAYERS
    assert sent(w, "context")["all-to-all"] == 2 * whole * 3 / 4


def test_chosen_rows_travel_to_experts_and_back_in_both_passes():
    w = on(SPARSE, expert=4)
    rows = TOKENS / 4 * 2 * LAYERS * WIDTH * 2
    assert sent(w, "expert")["all-to-all"] == 4 * rows * 3 / 4
    assert sent(w, "expert")["all-reduce"] == 2 * 2 * (10_000_000 - 8_000_000) * 3 / 4  # what is not an expert's


def test_experts_are_split_over_their_axis_and_layers_over_stages():
    assert shares.used(on(SPARSE, expert=4)) == 2_000_000 + 8_000_000 / 4
    assert shares.used(on(stage=4)) == 1_000_000 + 9_000_000 / 4
    assert shares.stored(on(stage=4, fsdp=2, tensor=2)) == (1_000_000 + 9_000_000 / 4) / 4
    assert shares.tokens(on(data=2, tensor=4, context=2, expert=2, stage=2)) == TOKENS / 16


def test_a_pipeline_idles_for_all_stages_but_one_of_its_ticks():
    w = replace(on(stage=4), pipeline_microbatches=8, pipeline_repeats=2)
    assert schedule.ticks(w) == 2 * 8 + 3
    assert schedule.bubble(w) == 3 / 19
    assert schedule.bubble(on(fsdp=4)) == 0
    assert schedule.flow(on(stage=4))[1] == 16  # four microbatches a stage
    slice_ = topology.parse("v5e:2x2")
    busy, idle = analytic.work(on(fsdp=4), slice_), analytic.work(w, slice_)
    assert idle.flops == pytest.approx(busy.flops * 19 / 16)


def test_a_pipeline_sends_activations_on_with_each_tick_and_deals_out_the_rows():
    w = replace(on(data=2, stage=4), pipeline_microbatches=8)
    whole = TOKENS / 2 * WIDTH * 2
    found = sent(w, "stage")
    assert found["collective-permute"] == 2 * (8 + 3) * whole / 8
    assert found["all-gather"] == found["reduce-scatter"] == whole * 3 / 4
    assert found["all-to-all"] == 2 * whole * 3 / 4
    assert found["all-reduce"] == 2 * 2 * 1_000_000 * 3 / 4  # embedding and head, which every stage has


def test_a_search_walks_only_what_a_recipe_can_set():
    walked = list(search.meshes(SPARSE, 16, {"data", "fsdp", "tensor"}))
    assert {m["context"] * m["expert"] * m["stage"] for m in walked} == {1}
    wider = list(search.meshes(SPARSE, 16, {"data", "fsdp", "tensor", "context", "expert", "stage"}))
    assert len(wider) > len(walked)
    for mesh in wider:
        used = 1
        for n in mesh.values():
            used *= n
        assert used == 16 and 8 % mesh["expert"] == 0 and LAYERS % mesh["stage"] == 0
        assert mesh["context"] == 1  # 1024 positions are not split further
