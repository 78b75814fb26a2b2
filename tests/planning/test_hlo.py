"""Programs read from their text: loops counted by their turns, slices by their size, groups by their mesh axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from llm_jax.planning import aot, collectives, hlo

TPU = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %s = f32[] add(%a, %a)
}

%fused (p0: f32[16,8,128], p1: s32[]) -> f32[1,8,128] {
  %p0 = f32[16,8,128]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %slice = f32[1,8,128]{2,1,0} dynamic-slice(%p0, %p1), dynamic_slice_sizes={1,8,128}
}

%body (t: (s32[], f32[16,8,128])) -> (s32[], f32[16,8,128]) {
  %t = (s32[]{:T(128)}, f32[16,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %w = f32[16,8,128]{2,1,0:T(8,128)} get-tuple-element(%t), index=1
  %one = f32[1,8,128]{2,1,0} fusion(%w, %i), kind=kLoop, calls=%fused
  %whole = bf16[32,128]{1,0:T(8,128)(2,1)} all-gather(%one), replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
  ROOT %out = (s32[], f32[16,8,128]) tuple(%i, %w)
}

%cond (t: (s32[], f32[16,8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(16)
  %t2 = (s32[], f32[16,8,128]) parameter(0)
  %j = s32[] get-tuple-element(%t2), index=0
  ROOT %less = pred[]{:T(512)} compare(%j, %limit), direction=LT
}

ENTRY %main (w: f32[16,8,128]) -> f32[] {
  %w = f32[16,8,128]{2,1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[16,8,128]) tuple(%zero, %w)
  %loop = (s32[]{:T(128)}, f32[16,8,128]{2,1,0}) while(%start), condition=%cond, body=%body
  ROOT %sum = f32[] all-reduce(%zero), replica_groups=[1,8]<=[8], to_apply=%add, metadata={op_name="jit(step)/a/sum"}
}
"""
FUSED = """HloModule fused

%all-reduce-scatter.1 (p: bf16[64,128]) -> bf16[16,128] {
  %p = bf16[64,128]{1,0} parameter(0)
  %sum = bf16[64,128]{1,0} all-reduce(%p), channel_id=1, replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
  ROOT %part = bf16[16,128]{1,0} dynamic-slice(%sum, %id), dynamic_slice_sizes={16,128}
}

%begin (p: bf16[16,128]) -> bf16[64,128] {
  %p = bf16[16,128]{1,0} parameter(0)
  ROOT %gather = bf16[64,128]{1,0} all-gather(%p), channel_id=2, replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
}

%end (p: bf16[16,128]) -> bf16[64,128] {
  %p = bf16[16,128]{1,0} parameter(0)
  ROOT %gather = bf16[64,128]{1,0} all-gather(%p), channel_id=2, replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
}

ENTRY %main (w: bf16[64,128]) -> bf16[64,128] {
  %w = bf16[64,128]{1,0} parameter(0)
  %part = bf16[16,128]{1,0} fusion(%w), kind=kCustom, calls=%all-reduce-scatter.1
  %first = bf16[64,128]{1,0} fusion(%part), kind=kCustom, calls=%begin
  ROOT %last = bf16[64,128]{1,0} fusion(%part), kind=kCustom, calls=%end
}
"""
UNROLLED = """HloModule unrolled

%body (t: (s32[], u32[], f32[8])) -> (s32[], u32[], f32[8]) {
  %three = u32[] constant(3)
  %t = (s32[], u32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %n = u32[] get-tuple-element(%t), index=1
  %x = f32[8]{0} get-tuple-element(%t), index=2
  %moved = f32[8]{0} collective-permute(%x), channel_id=1, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %next = u32[] add(%n, %three)
  ROOT %out = (s32[], u32[], f32[8]) tuple(%i, %next, %moved)
}

%cond (t: (s32[], u32[], f32[8])) -> pred[] {
  %limit = u32[] constant(8)
  %t2 = (s32[], u32[], f32[8]) parameter(0)
  %n2 = u32[] get-tuple-element(%t2), index=1
  ROOT %less = pred[] compare(%n2, %limit), direction=LT
}

ENTRY %main (t: (s32[], u32[], f32[8])) -> (s32[], u32[], f32[8]) {
  %t = (s32[], u32[], f32[8]) parameter(0)
  ROOT %loop = (s32[], u32[], f32[8]) while(%t), condition=%cond, body=%body
}
"""
GPU = """HloModule jit_step, is_scheduled=true

%fused (p0: f32[2,8,64], p1: f32[2,64,16]) -> f32[2,8,16] {
  %p0 = f32[2,8,64]{2,1,0} parameter(0)
  %p1 = f32[2,64,16]{2,1,0} parameter(1)
  ROOT %dot = f32[2,8,16]{2,1,0} dot(%p0, %p1), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}
}

%body (t: (s32[], bf16[32,128])) -> (s32[], bf16[32,128]) {
  %t = (s32[], bf16[32,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = bf16[32,128]{1,0} get-tuple-element(%t), index=1
  %product = (f32[128,128]{1,0}, s8[33554432]{0}) custom-call(%x, %x), custom_call_target="__cublas$lt$matmul", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"],\
"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[]}}}
  %y = f32[128,128]{1,0} get-tuple-element(%product), index=0
  ROOT %out = (s32[], bf16[32,128]{1,0}) tuple(%i, %x)
}

ENTRY %main (t: (s32[], bf16[32,128])) -> f32[2,8,16] {
  %t = (s32[], bf16[32,128]{1,0}) parameter(0)
  %a = f32[2,8,64]{2,1,0} constant(0)
  %b = f32[2,64,16]{2,1,0} constant(0)
  %loop = (s32[], bf16[32,128]{1,0}) while(%t), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  ROOT %last = f32[2,8,16]{2,1,0} fusion(%a, %b), kind=kCustom, calls=%fused
}
"""
MESH = {"data": 2, "fsdp": 4}


def test_what_stands_in_a_loop_is_counted_as_often_as_the_loop_turns():
    program = hlo.parse(TPU)
    assert program.runs()["body"] == 16
    gather, total = collectives.traffic(program, MESH)
    assert (gather.kind, gather.axes, gather.count) == ("all-gather", ("fsdp",), 16)
    assert gather.whole == 16 * 32 * 128 * 2
    assert gather.sent == gather.whole * 3 / 4
    assert (total.kind, total.axes, total.count, total.sent) == ("all-reduce", ("data", "fsdp"), 1, 2 * 4 * 7 / 8)


def test_a_known_trip_count_is_believed_before_the_condition():
    line = next(i for i, _ in hlo.parse(TPU).lines() if i.op == "while")
    known = hlo.Instruction("l", "", "while", line.rest + ', backend_config={"known_trip_count":{"n":"7"}}', False)
    assert hlo.parse(TPU).trips(line) == 16
    assert hlo.parse(TPU).trips(known) == 7


def test_a_loop_that_the_compiler_unrolled_turns_less_often():
    program = hlo.parse(UNROLLED)
    assert program.runs()["body"] == 3  # 0, 3, 6
    (row,) = collectives.traffic(program, {"fsdp": 4})
    assert (row.kind, row.count, row.sent) == ("collective-permute", 3, 3 * 8 * 4)


def test_collectives_within_fusions_are_counted_once_a_channel():
    scatter, gather = sorted(collectives.traffic(hlo.parse(FUSED), MESH), key=lambda row: row.kind, reverse=True)
    assert (scatter.kind, scatter.axes, scatter.count) == ("reduce-scatter", ("fsdp",), 1)
    assert (gather.kind, gather.axes, gather.count) == ("all-gather", ("fsdp",), 1)
    assert scatter.whole == gather.whole == 64 * 128 * 2
    assert scatter.sent == gather.sent == gather.whole * 3 / 4


@pytest.mark.parametrize(
    ("line", "kind", "whole"),
    [
        ("bf16[16,128] reduce-scatter(%x)", "reduce-scatter", 4 * 16 * 128 * 2),
        ("bf16[64,128] all-gather(%x)", "all-gather", 64 * 128 * 2),
        ("(bf16[16,128], bf16[64,128]) all-gather-start(%x)", "all-gather", 64 * 128 * 2),
        ("((bf16[16,128]), bf16[64,128]) all-gather-start(%x)", "all-gather", 64 * 128 * 2),
        ("((bf16[16], s32[4]), (bf16[64], s32[16])) all-gather-start(%x)", "all-gather", 64 * 2 + 16 * 4),
        ("((bf16[64,128]), bf16[16,128]) reduce-scatter-start(%x)", "reduce-scatter", 64 * 128 * 2),
        ("((bf16[64,128]), bf16[64,128]) all-to-all-start(%x)", "all-to-all", 64 * 128 * 2),
        ("(bf16[64], f32[4]) all-reduce-start(%x)", "all-reduce", 64 * 2 + 4 * 4),
    ],
)
def test_the_whole_of_a_collective_is_what_all_its_devices_have_together(line, kind, whole):
    text = f"ENTRY %main (x: bf16[16,128]) -> f32[] {{\n  %c = {line}, replica_groups=[2,4]<=[8]\n}}"
    (row,) = collectives.traffic(hlo.parse(text), MESH)
    assert (row.kind, row.whole) == (kind, whole)


def test_products_of_a_gpu_are_counted_in_its_library_and_in_fusions_as_often_as_they_run():
    program = hlo.parse(GPU)
    assert program.product_flops() == 5 * 2 * 128 * 128 * 32 + 2 * 2 * 8 * 16 * 64


def test_the_room_that_a_product_works_in_is_no_result():
    program = hlo.parse(GPU)
    assert program.memory_traffic() == 5 * (2 * 32 * 128 * 2 + 128 * 128 * 4) + 4 * 2 * (8 * 64 + 64 * 16 + 8 * 16)
    assert ("f32[128,128]", 128 * 128 * 4.0, "custom-call") in program.largest()


def test_a_slice_alone_reads_and_writes_its_own_bytes():
    lines = "  %x = f32[8,8] parameter(0)\n  %s = f32[1,8] dynamic-slice(%x, %i)"
    text = f"ENTRY %main (x: f32[8,8]) -> f32[1,8] {{\n{lines}\n}}"
    assert hlo.parse(text).memory_traffic() == 2 * 32


def test_what_is_summed_between_slices_crosses_their_network():
    text = """ENTRY %main (x: bf16[32,8]) -> bf16[32,8] {
  %x = bf16[32,8]{1,0} parameter(0)
  %s = (bf16[32,8]{1,0}, u32[], token[]) send(%x, %t), channel_id=2, is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1,2}x{0:15}",_xla_megascale_transfer_type="ALL_REDUCE"}
}"""
    (row,) = collectives.traffic(hlo.parse(text), {"slice": 2, "fsdp": 16})
    assert (row.kind, row.axes, row.whole, row.sent) == ("all-reduce", ("slice",), 512, 512)


def test_a_compiler_that_died_is_quoted_not_its_stack():
    text = "W0 noise\nF1124 20:43:24.3 1604 alias.cc:135] Check failed: a == b\n*** stack\n    @ 0x7f main"
    assert aot.last_words(text) == "Check failed: a == b"
    assert aot.last_words("one\ntwo") == "two"


def test_a_slice_of_a_stack_of_layers_reads_a_layer():
    layer, gathered, scalar = 8 * 128 * 4, 32 * 128 * 2, 4
    index = 4
    expected = 16 * (layer + index + layer + layer + gathered) + 2 * scalar
    assert hlo.parse(TPU).memory_traffic() == expected


@pytest.mark.parametrize(
    ("text", "axes"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", ("fsdp",)),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("data",)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("data",)),
        ("replica_groups=[2,4]<=[8]", ("fsdp",)),
        ("replica_groups=mesh['x'=2,'y'=4] {'x'}", ("data",)),
        ("replica_groups=mesh['x'=2,'y'=4] {'x','y'}", ("data", "fsdp")),
        ("replica_groups=mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'x'}", ("fsdp",)),
        ("replica_groups=mesh['x'=2,'y'=4], device_ids=([8]) {'x'}", ("data",)),
        ("source_target_pairs={{0,1},{1,2},{2,3},{3,0}}", ("fsdp",)),
        ("replica_groups={}", ("data", "fsdp")),
    ],
)
def test_groups_of_every_notation_run_along_their_mesh_axes(text, axes):
    assert collectives.axes_of(collectives.groups(text, 8), MESH) == axes


def test_bytes_of_types():
    assert hlo.type_bytes("(bf16[2,8]{1,0:T(8,128)}, f32[], pred[3]{0})") == 32 + 4 + 3


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule empty")


def test_a_program_compiled_here_is_read_as_it_was_written():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    weights = jax.ShapeDtypeStruct((3, 32, 32), jnp.float32, sharding=NamedSharding(mesh, P(None, "fsdp", None)))
    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=NamedSharding(mesh, P(("data", "fsdp"), None)))

    def loss(weights, x):
        def layer(x, w):
            whole = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, P(None, None)))
            return jnp.tanh(x @ whole), None

        return jax.lax.scan(layer, x, weights)[0].sum()

    text = jax.jit(loss).lower(weights, x).compile().as_text()
    rows = {(r.kind, r.axes): r for r in collectives.traffic(hlo.parse(text), {"data": 2, "fsdp": 4})}
    gather = next(r for r in rows.values() if r.kind == "all-gather")
    assert "fsdp" in gather.axes  # the compiler may split the rows over `data` too before it gathers them
    assert gather.count == 3
    np.testing.assert_allclose(gather.whole, 3 * 32 * 32 * 4)
    assert ("all-reduce", ("data", "fsdp")) in rows
