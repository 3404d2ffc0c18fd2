"""The kernel against attend_in_full; on CPU it is interpreted, and for TPUs it is compiled without one."""

import importlib.util
import os
import re
import subprocess
import sys
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lit_jax.models.kernels.row_attention import row_attention, row_attention_sharded
from lit_jax.models.kernels.row_attention.vmem import VMEM, fits, vmem_bytes
from lit_jax.models.layers.attention import attend_in_full
from lit_jax.parallel.sharding import make_mesh

DTYPES = ("float32", "bfloat16")
NAMES = ("y", "dq", "dk", "dv", "dbias")
interpreted = partial(row_attention, interpret=True)


def in_full(q, k, v, mask=None, bias=None, *, heads, causal=False):
    batch, tokens, width = q.shape
    if mask is not None:
        mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
    if causal:
        below = jnp.tril(jnp.ones((1, 1, tokens, tokens), bool))
        mask = below if mask is None else mask & below
    q, k, v = (x.reshape(batch, tokens, heads, width // heads) for x in (q, k, v))
    return attend_in_full(q, k, v, mask, bias, nn.Dropout(0.0, deterministic=True).bind({}))[0].reshape(
        batch, tokens, width
    )


def arrays(batch, tokens, width, heads, dtype, with_bias):
    rng = np.random.default_rng(0)
    x = {name: jnp.asarray(rng.normal(size=(batch, tokens, width)), dtype) for name in ("q", "k", "v", "dy")}
    bias = jnp.asarray(rng.normal(size=(1, heads, tokens, tokens)), jnp.float32)
    return x | {"bias": bias if with_bias else None}


def lengths(batch, tokens):
    """Key masks of texts of different lengths; the last has no token at all."""
    ends = np.linspace(tokens, 0, batch).astype(int)
    return jnp.asarray(np.arange(tokens) < ends[:, None])


def value_and_gradients(attend, x, mask):
    @jax.jit
    def both(x):
        dy = x["dy"]
        y, pull = jax.vjp(
            lambda q, k, v, bias: attend(q, k, v, mask, bias), x["q"], x["k"], x["v"], x["bias"]
        )
        return y, *pull(dy)

    return both(x)


def check(got, x, mask=None, roundings=1, **options):
    """Compares with float64, since float32 attention in full errs by as much as the tolerance on some processors."""
    attend = partial(in_full, **options)
    want = value_and_gradients(attend, x, mask)
    with jax.enable_x64(True):
        double = {name: None if a is None else a.astype(jnp.float64) for name, a in x.items()}
        exact = value_and_gradients(attend, double, mask)
    for name, g, w, e in zip(NAMES, got, want, exact, strict=True):
        if w is None:
            assert g is None
            continue
        assert (g.dtype, g.shape) == (w.dtype, w.shape), name
        g, w, e = (np.asarray(a, np.float64) for a in (g, w, e))
        largest = max(1, np.abs(e).max())
        if x["q"].dtype == jnp.float32:
            np.testing.assert_allclose(
                g, e, atol=(1e-6 if name == "y" else 1e-5) * largest, rtol=0, err_msg=name
            )
        else:  # As near to float64 as attention in full in bfloat16, give or take some roundings.
            assert np.abs(g - e).max() <= np.abs(w - e).max() + roundings * 2**-8 * largest, name


@pytest.mark.sampled(12)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", ["1 197 128 2", "3 50 192 3", "5 17 64 2", "2 17 640 8", "16 16 256 2", "2 9 96 2"]
)
def test_equals_attention_in_full(shape, dtype):
    batch, tokens, width, heads = map(int, shape.split())
    x = arrays(batch, tokens, width, heads, dtype, with_bias=False)
    check(value_and_gradients(partial(interpreted, heads=heads), x, None), x, heads=heads)


@pytest.mark.sampled(24)
@pytest.mark.parametrize(
    ("kind", "causal", "with_bias", "dtype"),
    [
        pytest.param(
            *case, marks=() if case[3] == "float32" or case[:3] == ("each", True, True) else pytest.mark.slow
        )
        for case in product([None, "keys", "each"], [False, True], [False, True], DTYPES)
    ],
)
def test_masks_and_biases_equal_attention_in_full(kind, causal, with_bias, dtype):
    x = arrays(9, 17, 128, 4, dtype, with_bias)  # Three programs of three texts.
    mask = None if kind is None else lengths(9, 17)
    if kind == "each":  # Every query has its own set of keys, and the first query has none.
        mask = mask[:, None] & jnp.asarray(np.random.default_rng(1).random((9, 17, 17)) < 0.7).at[:, 0].set(
            False
        )
    options = {"heads": 4, "causal": causal}
    check(value_and_gradients(partial(interpreted, **options), x, mask), x, mask, **options)


def test_a_text_without_tokens_gets_the_mean_of_its_values():
    x = arrays(2, 17, 64, 2, "float32", with_bias=False)
    y = interpreted(x["q"], x["k"], x["v"], jnp.zeros((2, 17), bool), heads=2)
    np.testing.assert_allclose(y, jnp.broadcast_to(x["v"].mean(1, keepdims=True), y.shape), atol=1e-6)


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (2, 4)])
def test_a_sharded_batch_gives_the_whole_gradient_of_the_bias(data, fsdp):
    x = arrays(16, 17, 64, 2, "float32", with_bias=True)
    mask = lengths(16, 17)
    attend = partial(row_attention_sharded, heads=2, mesh=make_mesh(data, fsdp))
    got = value_and_gradients(attend, x, mask)
    assert len(got[0].sharding.device_set) == 8
    check(got, x, mask, heads=2)


def test_heads_that_do_not_divide_the_width_are_refused():
    x = jnp.zeros((1, 3, 64))
    with pytest.raises(ValueError, match="3 heads do not divide a width of 64"):
        row_attention(x, x, x, heads=3)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", [*VMEM, "TPU of the future"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_fits_also_fits_with_fewer_tokens(dtype, bias, kind):
    for width, heads in ((384, 6), (768, 12), (1024, 16), (1280, 16)):
        fit = [fits(tokens, width, heads, dtype, bias, kind=kind) for tokens in range(1, 700)]
        assert fit == sorted(fit, reverse=True)
        sizes = [vmem_bytes(t, width, heads, dtype, bias, backward=True) for t in range(1, 700)]
        assert sizes == sorted(sizes)
    assert fits(197, 768, 12, dtype, kind=kind)


COMPILE = """
import sys, jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding
from lit_jax.models.kernels.row_attention import row_attention

topology, tokens, heads, masked, with_bias = sys.argv[1], *map(int, sys.argv[2:])
device = topologies.get_topology_desc(topology_name=topology, platform="tpu").devices[0]
sharding = SingleDeviceSharding(device)
# With its own choice of layouts XLA would copy what comes in and goes out.
rows = Format(Layout((0, 1, 2)), sharding)
x = jax.ShapeDtypeStruct((512, tokens, 768), jnp.bfloat16, sharding=rows)
mask = jax.ShapeDtypeStruct((512, tokens), bool, sharding=sharding) if masked else None
bias = jax.ShapeDtypeStruct((heads, tokens, tokens), jnp.float32, sharding=sharding) if with_bias else None

def forward(q, k, v, mask, bias):
    return row_attention(q, k, v, mask, bias, heads=heads)

def backward(q, k, v, mask, bias, dy):
    pull = jax.vjp(lambda q, k, v, bias: forward(q, k, v, mask, bias), q, k, v, bias)[1]
    return pull(dy)[:3]

for function, given in (forward, (x, x, x, mask, bias)), (backward, (x, x, x, mask, bias, x)):
    out = rows if function is forward else (rows,) * 3
    done = jax.jit(function, out_shardings=out).lower(*given).compile()
    assert "tpu_custom_call" in done.as_text()
    print("bytes", done.memory_analysis().temp_size_in_bytes)
"""


@pytest.mark.slow
@pytest.mark.network  # libtpu asks the network about its machine.
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason='needs libtpu: pip install "jax[tpu]"')
@pytest.mark.parametrize("case", ["197 12 0 0", "197 12 0 1", "32 12 1 0", "32 24 1 0"])
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_compiles_for_a_tpu_without_scores_in_its_memory(topology, case):
    tokens, heads, *_ = map(int, case.split())
    env = os.environ | {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    env.pop("JAX_DISABLE_MOST_OPTIMIZATIONS")
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, topology, *case.split()], env=env, capture_output=True, text=True
    )
    temps = [int(n) for n in re.findall(r"bytes (\d+)", done.stdout)]
    assert len(temps) == 2, done.stderr
    assert max(temps) < 512 * heads * tokens**2 / 4, temps  # Scores of one byte would be four times that.
