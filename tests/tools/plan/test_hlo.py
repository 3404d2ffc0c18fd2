"""Traffic and collectives of compiled programs, counted as often as they run."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from lit_jax.parallel.sharding import AXES, make_mesh
from lit_jax.tools.plan.hlo import Program

ON_CHIP = """\
HloModule m

%body (p: (s32[], f32[8,4], f32[3,4])) -> (s32[], f32[8,4], f32[3,4]) {
  %p = (s32[], f32[8,4]{1,0:T(8,128)}, f32[3,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %w = f32[3,4]{1,0} get-tuple-element(%p), index=2
  %kept = f32[8,4]{1,0:T(8,128)S(1)} fusion(%x, %w, %i), kind=kLoop, calls=%scaled
  %y = f32[8,4]{1,0:T(8,128)} negate(%kept), metadata={op_name="jit(step)/vision/neg"}
  ROOT %t = (s32[], f32[8,4]{1,0}, f32[3,4]{1,0}) tuple(%i, %y, %w)
}

%condition (q: (s32[], f32[8,4], f32[3,4])) -> pred[] {
  %q = (s32[], f32[8,4]{1,0}, f32[3,4]{1,0}) parameter(0)
  %n = s32[] constant(3)
  %j = s32[] get-tuple-element(%q), index=0
  ROOT %less = pred[] compare(%j, %n), direction=LT
}

%scaled (a: f32[8,4], b: f32[3,4], c: s32[]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[3,4]{1,0} parameter(1)
  %c = s32[] parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,4]{1,0} dynamic-slice(%b, %c, %zero), dynamic_slice_sizes={1,4}
  %flat = f32[4]{0} bitcast(%row)
  %wide = f32[8,4]{1,0} broadcast(%flat), dimensions={1}
  ROOT %m = f32[8,4]{1,0} multiply(%a, %wide)
}

ENTRY %main (x: f32[8,4], w: f32[3,4]) -> f32[8,4] {
  %x.1 = f32[8,4]{1,0} parameter(0)
  %w.1 = f32[3,4]{1,0} parameter(1)
  %z = s32[] constant(0)
  %start = (s32[], f32[8,4]{1,0}, f32[3,4]{1,0}) tuple(%z, %x.1, %w.1)
  %loop = (s32[], f32[8,4]{1,0}, f32[3,4]{1,0}) while(%start), condition=%condition, body=%body
  ROOT %out = f32[8,4]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_a_loop_counts_as_often_as_it_runs_and_what_stays_on_the_chip_not_at_all():
    tokens, row, counter = 8 * 4 * 4, 4 * 4, 4
    moved = Program(ON_CHIP).traffic()
    # The fusion reads the tokens, one row of the weights and the counter; what it makes never leaves the chip.
    assert moved == {"rest": 3 * (tokens + row + counter), "vision": 3 * tokens}


def program(function, *arguments):
    return Program(jax.jit(function).lower(*arguments).compile().as_text())


def test_a_scan_moves_what_its_layers_move_one_by_one():
    x, w = jnp.ones((64, 64)), jnp.ones((12, 64, 64))

    def scanned(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    def layer(x, w):
        return jnp.tanh(x @ w)

    one = sum(program(layer, x, w[0]).traffic().values())
    twelve = sum(program(scanned, x, w).traffic().values())
    assert 11.5 * one < twelve < 20 * one  # Beside the layers, a loop moves its counter and copies.


def test_collectives_are_counted_by_kind_with_their_bytes():
    mesh = make_mesh(8, 1)

    @partial(jax.shard_map, mesh=mesh, in_specs=PartitionSpec(AXES), out_specs=PartitionSpec(AXES))
    def summed(x):
        def turn(total, _):
            return jax.lax.pcast(jax.lax.psum(jnp.tanh(total), AXES), AXES, to="varying"), None

        return jax.lax.scan(turn, x, None, length=5)[0]

    found = program(summed, np.ones((8, 32), np.float32)).collectives()
    assert found == {"all-reduce": (5, 5 * 32 * 4)}


def test_the_shapes_of_all_buffers_are_known():
    assert Program(ON_CHIP).buffers() >= {(8, 4), (3, 4), (1, 4)}
