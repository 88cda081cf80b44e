"""Reading compiled modules: collectives and the TPU compiler's costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lungseg_jax.performance import hlo

# A loop of 5 rounds around a fusion, an asynchronous gather, a combined all-reduce of 3 arrays, and
# an op that the compiler puts no cycles on. Written by hand after the text of a TPU module.
TEXT = """\
HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p: bf16[8,128]) -> bf16[8,128] {
  %p = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %twice = bf16[8,128]{1,0:T(8,128)(2,1)} add(%p, %p), backend_config={"window_config":{"estimated_cycles":"1000000"}}
}

%body (t: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %t = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  %x = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%t), index=1
  %y = bf16[8,128]{1,0:T(8,128)(2,1)} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/encoder0/add" stack_frame_id=3}, backend_config={"window_config":{"estimated_cycles":"70"}}
  ROOT %next = (s32[], bf16[8,128]) tuple(%i, %y)
}

%condition (t: (s32[], bf16[8,128])) -> pred[] {
  %t.1 = (s32[], bf16[8,128]) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (x: bf16[8,128], k: f32[3,3,4,8]) -> (f32[3,3,4,8], f32[]) {
  %x.1 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0), sharding={replicated}
  %k = f32[3,3,4,8]{3,2,1,0:T(8,128)S(1)} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], bf16[8,128]) tuple(%zero, %x.1)
  %loop = (s32[], bf16[8,128]) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %z = bf16[8,128] get-tuple-element(%loop), index=1
  %gather-start = (bf16[8,128], bf16[32,128]) all-gather-start(%z), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}
  %other = f32[3,3,4,8]{3,2,1,0} copy(%k), backend_config={"window_config":{"estimated_cycles":"30"}}
  %gather-done = bf16[32,128] all-gather-done(%gather-start)
  %s = f32[] constant(1)
  %b = f32[8] constant({...})
  %reduced = (f32[3,3,4,8]{3,2,1,0:T(8,128)}, f32[8]{0:T(128)}, /*index=2*/f32[]) all-reduce(%other, %b, %s), channel_id=2, replica_groups={{0,1,2,3}}, to_apply=%add, metadata={op_name="jit(step)/psum"}
  %first = f32[3,3,4,8] get-tuple-element(%reduced), index=0
  %last = f32[] get-tuple-element(%reduced), index=2
  ROOT %result = (f32[3,3,4,8], f32[]) tuple(%first, %last)
}
"""  # noqa: E501

# Computations within computations: a fusion and a permutation in a loop of 3 rounds in one of 5,
# two branches, and a collective whose result is smaller than what goes in.
NESTED = """\
HloModule nested, is_scheduled=true

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4] parameter(0)
  ROOT %exchanged = f32[4] all-to-all(%p), channel_id=1, dimensions={0}
}

%inner (i: f32[4]) -> f32[4] {
  %i = f32[4] parameter(0)
  %f = f32[4] fusion(%i), kind=kLoop, calls=%fused
  ROOT %permuted = f32[4] collective-permute(%f), channel_id=2
}

%outer (o: f32[4]) -> f32[4] {
  %o = f32[4] parameter(0)
  ROOT %rounds = f32[4] while(%o), condition=%go, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
}

%go (g: f32[4]) -> pred[] {
  %g = f32[4] parameter(0)
  ROOT %yes = pred[] constant(true)
}

%left (l: f32[8]) -> f32[8] {
  %l = f32[8] parameter(0)
  ROOT %gathered = f32[8] all-gather(%l), channel_id=3, dimensions={0}
}

%right (r: f32[8]) -> f32[8] {
  %r = f32[8] parameter(0)
  ROOT %sent = f32[8] collective-broadcast(%r), channel_id=4
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (x: f32[4], n: s32[], y: f32[32]) -> (f32[4], f32[8]) {
  %x = f32[4] parameter(0)
  %n = s32[] parameter(1)
  %y = f32[32] parameter(2)
  %loop = f32[4] while(%x), condition=%go, body=%outer, backend_config={"known_trip_count":{"n":"5"}}
  %scattered = f32[8] reduce-scatter(%y), channel_id=5, dimensions={0}, to_apply=%add
  %either = f32[8] conditional(%n, %scattered, %scattered), branch_computations={%left, %right}
  ROOT %result = (f32[4], f32[8]) tuple(%loop, %either)
}
"""  # noqa: E501


def test_cycles_are_those_of_what_runs():
    """Fault: the inside of a fusion counted beside the fusion, or a loop's body counted once."""
    costs = hlo.schedule(hlo.parse(TEXT))
    assert hlo.total_cycles(costs) == 5 * 70 + 30
    (fusion,) = [cost for cost in costs if cost.instruction.opcode == "fusion"]
    assert (fusion.runs, fusion.cycles) == (5, 350)
    assert fusion.instruction.op_name == "jit(step)/encoder0/add"


def test_collectives_are_counted_once_with_their_bytes():
    """Fault: a start and its end as two, operands added to results, a tuple's first array alone."""
    totals = hlo.by_kind(hlo.collectives(hlo.parse(TEXT)))
    reduced = 4 * (3 * 3 * 4 * 8 + 8 + 1)
    assert totals == {
        "all-gather": {"count": 1, "bytes": 2 * 32 * 128, "largest": 2 * 32 * 128},
        "all-reduce": {"count": 1, "bytes": reduced, "largest": reduced},
    }


@pytest.mark.parametrize(
    ("kind", "count", "size"),
    [
        # Fault: rounds of the inner loop alone.
        ("collective-permute", 15, 16),
        # Fault: communication that the compiler fused left out.
        ("all-to-all", 15, 16),
        # Fault: one branch left out, or both.
        ("all-gather", 1, 32),
        ("collective-broadcast", 1, 32),
        # Fault: the quarter that comes out taken for what is sent.
        ("reduce-scatter", 1, 128),
    ],
)
def test_collectives_within_computations_are_found(kind, count, size):
    """Fault: less communication than there is, where loops, branches and fusions hide it."""
    totals = hlo.by_kind(hlo.collectives(hlo.parse(NESTED)))
    assert len(totals) == 5
    assert totals[kind] == {"count": count, "bytes": count * size, "largest": size}


def test_work_of_an_asynchronous_op_counts_where_it_starts():
    """Fault: communication that the compiler wrapped to run beside other work left out."""
    text = """\
HloModule wrapped, is_scheduled=true

%wrapped (p: f32[8]) -> f32[8] {
  %p = f32[8] parameter(0)
  ROOT %exchanged = f32[8] all-to-all(%p), channel_id=1, dimensions={0}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8] parameter(0)
  %start = ((f32[8]), f32[8], u32[]) async-start(%x), calls=%wrapped
  ROOT %done = f32[8] async-done(%start), calls=%wrapped
}
"""
    totals = hlo.by_kind(hlo.collectives(hlo.parse(text)))
    assert totals == {"all-to-all": {"count": 1, "bytes": 32, "largest": 32}}


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[]", 4),
        ("bf16[2,3]{1,0:T(8,128)(2,1)S(1)}", 12),
        ("(pred[4], /*index=1*/u16[3]{0})", 10),
        ("f8e4m3fn[16]", 16),
        ("token[]", 0),
    ],
)
def test_bytes_of_a_shape(shape, size):
    """Fault: tiles of the layout or a tuple's comments read as dimensions."""
    assert hlo.shape_bytes(shape) == size


def test_a_module_compiled_here_is_parsed(eight_devices):
    """Fault: text that the parser cannot read, or a collective in a loop counted once.

    Four rounds of an all-reduce of 16 floats on each of eight devices, then one of a scalar.
    """
    mesh = Mesh(np.asarray(eight_devices), ("data",))

    def per_device(x):
        def one_round(_, x):
            return jax.lax.psum(x, "data") / 8

        x = jax.lax.fori_loop(0, 4, one_round, x)
        return x, jax.lax.pmax(x.sum(), "data")

    spread = PartitionSpec("data")
    step = jax.jit(
        jax.shard_map(
            per_device,
            mesh=mesh,
            in_specs=spread,
            out_specs=(spread, PartitionSpec()),
            check_vma=False,
        )
    )
    x = jax.ShapeDtypeStruct((8 * 16,), jnp.float32, sharding=NamedSharding(mesh, spread))
    module = hlo.parse(step.lower(x).compile().as_text())
    totals = hlo.by_kind(hlo.collectives(module))
    assert totals == {"all-reduce": {"count": 5, "bytes": 4 * 64 + 4, "largest": 64}}
    assert hlo.total_cycles(hlo.schedule(module)) == 0, "the CPU compiler estimates no cycles"
