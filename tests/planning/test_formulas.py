"""Work, memory and time from formulas: what must follow from what."""

from dataclasses import replace

import pytest

from llm_jax.cost.chips import CHIPS
from llm_jax.planning import analytic, estimate, roofline, search, topology, workload
from llm_jax.planning.axes import links
from llm_jax.planning.collectives import Traffic
from llm_jax.run.config import load_recipe, resolve

POD = topology.parse("v5e:16x16")


@pytest.fixture(scope="module")
def llama():
    return workload.of(resolve(load_recipe("configs/pods/llama2_7b.py")), POD)


def test_a_workload_has_the_sizes_of_its_recipe(llama):
    assert llama.parameters == 6_738_415_616
    assert (llama.layers, llama.width, llama.hidden, llama.kv_width) == (32, 4096, 11008, 4096)
    assert llama.slots == pytest.approx(2, abs=1e-6)
    assert llama.tokens == pytest.approx(2e12, rel=1e-4)
    assert llama.mesh["fsdp"] == 256
    assert llama.fields == ("tokens", "targets", "segments", "positions", "weights")


def test_fully_sharded_gathers_each_weight_twice_and_scatters_it_once(llama):
    rows = {row.kind: row for row in links.traffic(llama)}
    assert rows["all-gather"].whole == 2 * 2 * llama.parameters
    assert rows["reduce-scatter"].whole == 2 * llama.parameters
    assert rows["all-gather"].sent == rows["all-gather"].whole * 255 / 256


def test_recomputing_takes_a_third_more_compute_and_much_less_memory(llama):
    none, full = replace(llama, remat="none"), llama
    assert analytic.work(full, POD).flops == pytest.approx(4 / 3 * analytic.work(none, POD).flops)
    assert analytic.memory(full).activations < analytic.memory(none).activations / 10


def test_two_slices_sum_a_devices_share_of_the_gradients_between_them(llama):
    two = replace(llama, mesh={**llama.mesh, "slice": 2}, batch_size=2 * llama.batch_size)
    row = next(r for r in links.traffic(two) if r.axes == ("slice",))
    assert row.sent == 2 * llama.parameters / 256 * (2 * 1 / 2)
    times = roofline.times(analytic.work(two, topology.parse("v5e:16x16", 2)), topology.parse("v5e:16x16", 2), two.mesh)
    assert times.dcn == row.sent / POD.chip.dcn


def test_a_group_has_the_links_of_the_axes_that_it_fills():
    link = POD.chip.link
    assert roofline.bandwidth(POD, 256) == 2 * link
    assert roofline.bandwidth(POD, 16) == link
    assert roofline.bandwidth(POD, 4) == link / 2


def test_gpus_of_a_host_share_its_network_cards():
    """What a ring over hosts passes on enters each of them once, by as many cards as the ring has members there."""
    gpus = topology.parse("h100:16x8")
    assert roofline.bandwidth(gpus, 8) == roofline.bandwidth(gpus, 4, 2) == gpus.chip.link
    assert roofline.bandwidth(gpus, 16) == roofline.bandwidth(gpus, 128) == 8 * gpus.chip.dcn
    assert roofline.bandwidth(gpus, 64, 2) == 4 * gpus.chip.dcn
    assert roofline.bandwidth(gpus, 16, 8) == roofline.bandwidth(gpus, 2, 64) == gpus.chip.dcn
    mesh = {"data": 4, "fsdp": 4, "tensor": 8}
    assert [roofline.apart(mesh, [axis]) for axis in mesh] == [32, 8, 1]
    row = Traffic("all-gather", ("fsdp",), 1, 0, 1e12)
    assert roofline.times(roofline.Work(1e12, 1e9, (row,)), gpus, mesh).ici == 1e12 / gpus.chip.dcn


@pytest.mark.parametrize("name", CHIPS)
def test_every_chip_has_what_is_fitted_of_its_maker(name):
    assert roofline.fit(CHIPS[name]) in roofline.FITS.values()


def test_the_longest_binds_and_the_step_lies_between_its_bounds():
    gather = Traffic("all-gather", ("fsdp",), 1, 1e12, 1e12)
    work = roofline.Work(flops=1e12, memory=1e9, traffic=(gather,))
    found = roofline.times(work, POD, {"fsdp": 256})
    assert found.binds == "ICI"
    assert found.ici == 1e12 / (2 * POD.chip.link)
    all_overlap, none_do = found.bounds
    assert found.compute + found.hbm < found.step < none_do and all_overlap == found.ici


def test_both_definitions_of_mfu_are_the_same_time(llama):
    plan = estimate.by_formula(llama, POD)
    assert plan["mfu_full"] / plan["mfu_causal"] == pytest.approx(llama.flops_full / llama.flops_causal)
    per_chip = plan["tokens_per_s_chip"] * llama.flops_causal
    assert plan["mfu_causal"] == pytest.approx(per_chip / POD.chip.flops)


def test_money_and_days_follow_from_tokens_a_second(llama):
    plan = estimate.by_formula(llama, POD)
    whole = estimate.with_budget(plan, llama, POD, price=2.0, chip_mtbf=1e12, save=1e-6, restart=0.1)
    hours = llama.tokens / plan["tokens_per_s"] / 3600
    assert whole["budget"]["days"] == pytest.approx(hours / 24, rel=1e-3)
    assert whole["budget"]["money"] == pytest.approx(2 * 256 * hours, rel=1e-3)
    assert (
        "money"
        not in estimate.with_budget(plan, llama, POD, price=None, chip_mtbf=1e5, save=0.01, restart=0.1)["budget"]
    )


def test_a_search_offers_only_what_fits_fastest_first(llama):
    found = search.ranked(llama, POD)
    speeds = [plan["tokens_per_s"] for _, plan in found]
    assert len(found) > 20 and speeds == sorted(speeds, reverse=True)
    assert all(plan["bytes"] <= plan["usable_bytes"] for _, plan in found)
    asked = estimate.by_formula(llama, POD)
    assert speeds[0] >= asked["tokens_per_s"]
    for candidate, _ in found:
        rows = POD.devices // candidate.mesh["tensor"]
        assert candidate.batch_size % rows == 0
