"""JAX's kernel for long sequences against attend_in_full, interpreted on CPU and compiled for TPUs without one."""

import importlib.util
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from lit_jax.models.kernels import splash
from lit_jax.models.kernels.splash import (
    BLOCK,
    LANES,
    SHORTEST,
    blocks,
    splash_attention,
    splash_attention_sharded,
)
from lit_jax.models.layers.attention import Attention, use_row_kernel, use_splash
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.parallel.sharding import make_mesh
from tests.models.kernels.test_row_attention import arrays, check, lengths, value_and_gradients


def without_bias(attend, **options):
    return lambda q, k, v, mask, bias: attend(q, k, v, mask, **options)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("shape", "masked", "dtype"),
    [
        ("3 300 64 2", False, "float32"),
        ("3 300 64 2", True, "float32"),
        ("3 300 64 2", True, "bfloat16"),
        ("2 128 48 3", False, "bfloat16"),
    ],
)
def test_equals_attention_in_full(shape, masked, dtype, monkeypatch):
    monkeypatch.setattr(splash, "BLOCK", LANES)  # 300 tokens are three blocks each way.
    batch, tokens, width, heads = map(int, shape.split())
    x = arrays(batch, tokens, width, heads, dtype, with_bias=False)
    mask = lengths(batch, tokens) if masked else None  # The last text has no token at all.
    got = value_and_gradients(without_bias(splash_attention, heads=heads, interpret=True), x, mask)
    # It scales the queries before it multiplies, and computes gradients from a rounded output: two roundings.
    check(got, x, mask, roundings=2, heads=heads)


def test_a_sharded_batch_gives_the_same_as_the_whole_batch():
    x, mask = arrays(8, 40, 32, 2, "float32", with_bias=False), lengths(8, 40)
    options = {"heads": 2, "mesh": make_mesh(4, 2)}
    got = value_and_gradients(without_bias(splash_attention_sharded, **options), x, mask)
    assert len(got[0].sharding.device_set) == 8
    check(got, x, mask, heads=2)


def test_blocks_hold_all_tokens_in_whole_lanes_with_little_padding():
    for tokens in range(1, 3000):
        padded, block = blocks(tokens)
        assert tokens <= padded and padded % block == 0 and block % LANES == 0 and block <= BLOCK
        assert padded - tokens < LANES * (padded // block)


def test_heads_that_do_not_divide_the_width_are_refused():
    x = jnp.zeros((1, 3, 64))
    with pytest.raises(ValueError, match="3 heads do not divide a width of 64"):
        splash_attention(x, x, x, heads=3)


@pytest.mark.slow
def test_the_module_gives_the_same_through_the_kernel():
    spec, mesh = BlockSpec(heads=2, hidden=8, norm_first=True), make_mesh()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 20, 16)), jnp.float32)
    mask = (jnp.arange(20) < jnp.arange(13, 21)[:, None])[:, None, None]
    params = Attention(spec, Compute()).init(jax.random.key(0), x)
    want, got = (
        Attention(spec, Compute(attention=name, mesh=mesh)).apply(params, x, mask)[0]
        for name in ("xla", "splash")
    )
    np.testing.assert_allclose(got, want, atol=1e-6)


def tpu(kind="TPU v5 lite"):
    mesh = MagicMock(Mesh, size=4, devices=MagicMock())
    mesh.devices.flat = [SimpleNamespace(platform="tpu", device_kind=kind)] * 4
    return mesh


def test_a_tpu_uses_splash_for_long_rows_and_our_kernel_for_short_ones():
    keys, each = jnp.ones((8, 1, 1, 4096), bool), jnp.ones((8, 1, 4096, 4096), bool)
    compute = Compute(jnp.bfloat16, mesh=tpu())

    def chosen(tokens, mask=None, bias=None, batch=8, compute=compute):
        shape = (batch, tokens, 768)
        if use_row_kernel(compute, shape, 12, bias):
            return "rows"
        return "splash" if use_splash(compute, shape, mask, bias) else "xla"

    assert [chosen(tokens) for tokens in (32, 197, 1024, 4096)] == ["rows", "rows", "rows", "splash"]
    v4 = Compute(jnp.bfloat16, mesh=tpu("TPU v4"))
    assert [chosen(tokens, compute=v4) for tokens in (197, 577)] == ["rows", "splash"]
    assert not use_splash(v4, (8, SHORTEST - 1, 768), None, None)
    assert chosen(4096, mask=keys) == "splash" and chosen(4096, mask=each) == "xla"
    assert chosen(4096, bias=jnp.zeros((1, 1, 1, 1))) == "xla" and chosen(4096, batch=7) == "xla"
    assert chosen(4096, compute=Compute(mesh=make_mesh())) == "xla"  # This is a CPU.
    assert chosen(197, compute=Compute(attention="splash", mesh=tpu())) == "splash"


COMPILE = """
import sys, jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from lit_jax.models.kernels.splash import splash_attention

topology, tokens, width, heads, masked = sys.argv[1], *map(int, sys.argv[2:])
device = topologies.get_topology_desc(topology_name=topology, platform="tpu").devices[0]
sharding = SingleDeviceSharding(device)
x = jax.ShapeDtypeStruct((32, tokens, width), jnp.bfloat16, sharding=sharding)
mask = jax.ShapeDtypeStruct((32, tokens), bool, sharding=sharding) if masked else None

def forward(q, k, v, mask):
    return splash_attention(q, k, v, mask, heads=heads)

def backward(q, k, v, mask, dy):
    return jax.vjp(lambda *qkv: forward(*qkv, mask), q, k, v)[1](dy)

for function, given in (forward, (x, x, x, mask)), (backward, (x, x, x, mask, x)):
    done = jax.jit(function).lower(*given).compile()
    assert "tpu_custom_call" in done.as_text()
    print("bytes", done.memory_analysis().temp_size_in_bytes)
"""


@pytest.mark.slow
@pytest.mark.network  # libtpu asks the network about its machine.
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason='needs libtpu: pip install "jax[tpu]"')
@pytest.mark.parametrize("case", ["577 768 12 1", "1025 1280 16 0", "2048 1024 16 1"])
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_compiles_for_a_tpu_without_scores_in_its_memory(topology, case):
    tokens, _, heads, _ = map(int, case.split())
    env = os.environ | {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    env.pop("JAX_DISABLE_MOST_OPTIMIZATIONS")
    command = [sys.executable, "-c", COMPILE, topology, *case.split()]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    temps = [int(n) for n in re.findall(r"bytes (\d+)", done.stdout)]
    assert len(temps) == 2, done.stderr
    apart = 32 * heads * blocks(tokens)[0] * LANES * 2  # One tensor with padded heads and tokens.
    assert temps[0] < 8 * apart and temps[1] < 16 * apart, (temps, apart)
    assert tokens < 2048 or 16 * apart < 32 * heads * tokens**2 * 4  # Scores would take more.
