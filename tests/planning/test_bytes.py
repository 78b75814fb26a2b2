"""Bytes of a device and seconds of a step, worked out by hand from the sizes of a small workload."""

from dataclasses import replace

import pytest

from llm_jax.planning import analytic, estimate, failures, roofline, topology
from llm_jax.planning.axes import links, schedule
from llm_jax.planning.collectives import Traffic
from llm_jax.planning.workload import Workload

POD = topology.parse("v5e:2x2")
P, TABLES, LAYERS, WIDTH, KEYS, HIDDEN, VOCAB, LOCAL = 10_000_000, 1_000_000, 8, 512, 128, 2048, 1000, 16 * 1024
W = Workload(
    mesh={"fsdp": 4}, batch_size=64, seq_len=1024, microbatches=1, compute_dtype="bfloat16", remat="none",
    vocab_size=VOCAB, parameters=P, table_parameters=TABLES, layers=LAYERS, width=WIDTH, hidden=HIDDEN, kv_width=KEYS,
    flops_causal=6e7, flops_full=6.5e7, slots=2.0, tokens=1e9,
)  # fmt: skip


def test_state_is_float32_and_split():
    found = analytic.memory(W)
    assert (found.params, found.optimizer, found.gradients) == (4 * P / 4, 2 * 4 * P / 4, 4 * P / 4)
    assert found.total == found.params + found.optimizer + found.gradients + found.activations + found.temporaries


@pytest.mark.parametrize(
    ("remat", "numbers"),
    [
        ("full", WIDTH),
        ("dots", 3 * WIDTH + WIDTH + 2 * KEYS + 2 * HIDDEN),
        ("none", 8 * WIDTH + 3 * WIDTH + 4 * KEYS + 4 * HIDDEN),
    ],
)
def test_each_layer_keeps_for_a_token_what_is_not_made_again(remat, numbers):
    assert analytic.memory(replace(W, remat=remat)).activations == 2 * LOCAL * LAYERS * numbers


def test_temporaries_are_a_layers_activations_the_logits_and_weights_of_two_layers_with_their_gradients():
    one_layer = 2 * LOCAL * (11 * WIDTH + 4 * KEYS + 4 * HIDDEN)
    weights, table = 4 * 2 * (P - TABLES) / LAYERS, 2 * TABLES
    assert analytic.memory(W).temporaries == one_layer + 2 * 4 * VOCAB * LOCAL + weights + table
    chunked = analytic.memory(replace(W, chunked_loss=True))
    assert chunked.temporaries == one_layer + 2 * 4 * VOCAB * 1024 + weights + table


@pytest.mark.parametrize(("remat", "passes"), [("none", 3), ("full", 4)])
def test_memory_is_crossed_by_weights_and_activations_in_each_pass_by_logits_and_by_the_update(remat, passes):
    weights = 2 * P * passes * 2  # gathered, then read
    activations = 2 * LOCAL * LAYERS * (12 * WIDTH + 3 * HIDDEN + 2 * KEYS) * passes
    update = 4 * P / 4 * (2 + 2 * 2 + 2)  # parameters and slots read and written, gradients written and read
    expected = weights + activations + 3 * 4 * LOCAL * VOCAB + update
    assert analytic.memory_traffic(replace(W, remat=remat)) == expected


def test_in_a_pipeline_each_turn_gathers_the_layers_of_a_stage_again():
    w = replace(W, mesh={"fsdp": 2, "stage": 2}, pipeline_microbatches=4, pipeline_repeats=2)
    assert schedule.turns(w) == 9 / 2
    gathered = next(row.whole for row in links.traffic(w) if row.kind == "all-gather" and row.axes == ("fsdp",))
    assert gathered == 2 * 2 * (TABLES + 9 / 2 * (P - TABLES) / 2)


def test_seconds_are_work_over_what_a_chip_gives():
    two = topology.parse("v5e:2x2", 2)
    rows = (Traffic("all-reduce", ("fsdp",), 1, 0, 9e9), Traffic("all-reduce", ("slice", "fsdp"), 1, 0, 8e9))
    found = roofline.times(roofline.Work(1e12, 8e11, rows), two, {"slice": 2, "fsdp": 4}, roofline.Fit(0.5, 0.25))
    assert found.compute == 1e12 / 197e12 / 0.5
    assert found.hbm == 8e11 / 819e9
    assert found.ici == 17e9 / roofline.bandwidth(two, 4, 8)
    assert found.dcn == 8e9 / 4 / 3.125e9
    assert found.step == found.compute + found.hbm + 0.25 * (found.ici + found.dcn)
    assert analytic.work(W, POD).memory == analytic.UNFUSED * analytic.memory_traffic(W)


def test_links_take_at_least_their_own_time():
    rows = (Traffic("all-reduce", ("fsdp",), 1, 0, 9e12),)
    found = roofline.times(roofline.Work(1e12, 8e9, rows), POD, {"fsdp": 4}, roofline.Fit(0.5, 0.0))
    assert found.step == found.ici > found.compute + found.hbm


def test_a_failure_costs_half_an_interval_and_the_restart_and_stretches_the_days():
    loss = failures.expected(1000, 1000.0, 0.01, 0.5)
    assert loss.per_failure == loss.interval / 2 + 0.5
    plan = estimate.by_formula(W, POD)
    whole = estimate.with_budget(plan, W, POD, price=None, chip_mtbf=4.0, save=0.01, restart=0.5)
    lost = failures.expected(4, 4.0, 0.01, 0.5)
    assert lost.lost > 0.3
    assert whole["budget"]["days"] == pytest.approx(1e9 / plan["tokens_per_s"] / 3600 / 24 / (1 - lost.lost))
    assert whole["failures"]["steps_between_saves"] == round(lost.interval * 3600 / plan["step_s"])
