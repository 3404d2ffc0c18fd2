"""Which attention goes to cuDNN, and in what shape; its results on a GPU are tested in test_gpu.py."""

from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.models.kernels import cudnn


@pytest.mark.parametrize(
    ("platform", "capability", "tokens", "head", "dtype", "biased", "wanted"),
    [
        ("gpu", "9.0", 197, 64, jnp.bfloat16, False, True),
        ("gpu", "8.6", 32, 64, jnp.float16, True, True),
        ("gpu", "9.0", 197, 64, jnp.bfloat16, True, False),  # Backward needs an even number.
        ("gpu", "9.0", 196, 64, jnp.float32, False, False),
        ("gpu", "9.0", 196, 160, jnp.bfloat16, False, False),
        ("gpu", "9.0", 196, 20, jnp.bfloat16, False, False),
        ("gpu", "7.5", 196, 64, jnp.bfloat16, False, False),
        ("gpu", "gfx942", 196, 64, jnp.bfloat16, False, False),
        ("tpu", None, 196, 64, jnp.bfloat16, False, False),
    ],
)
def test_cudnn_is_used_where_it_is_supported(platform, capability, tokens, head, dtype, biased, wanted):
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    assert cudnn.supports(device, tokens, head, dtype, biased) == wanted


@pytest.fixture
def lengths(monkeypatch):
    """Puts XLA, with the same demands, in the place of cuDNN; gives the token counts that it was called with."""
    given = []

    def stand_in(q, k, v, bias=None, mask=None, **options):
        tokens = q.shape[1]
        assert mask is None or mask.shape[2:] == (tokens, tokens)
        assert bias is None or bias.dtype == q.dtype
        given.append(tokens)
        return jax.nn.dot_product_attention(q, k, v, bias, mask, **options)

    monkeypatch.setattr(cudnn, "_cudnn", stand_in)
    return given


def tensors(tokens):
    rng = np.random.default_rng(0)
    q, k, v, y = (jnp.asarray(rng.normal(size=(2, tokens, 3, 8)), jnp.float32) for _ in range(4))
    mask = jnp.arange(tokens)[None] < jnp.array([tokens, tokens // 2])[:, None]
    return (
        (q, k, v),
        y,
        mask[:, None, None],
        jnp.asarray(rng.normal(size=(1, 3, tokens, tokens)), jnp.float32),
    )


@pytest.mark.slow
def test_an_odd_number_of_tokens_is_made_even_only_for_the_backward_pass(lengths):
    qkv, y, _, _ = tensors(5)
    cudnn.flash_attention(*qkv, None, None)
    assert lengths == [5]
    jax.grad(lambda *qkv: (cudnn.flash_attention(*qkv, None, None) * y).sum())(*qkv)
    assert lengths == [5, 6]


@pytest.mark.parametrize(
    ("tokens", "masked", "biased"), [(5, 0, 0), (6, 0, 0), (6, 1, 0), (6, 0, 1), (6, 1, 1)]
)
def test_value_and_gradient_are_those_of_attention(lengths, tokens, masked, biased):
    qkv, y, mask, bias = tensors(tokens)
    mask, bias = mask if masked else None, bias if biased else None

    def loss(attend):
        return jax.value_and_grad(lambda *qkv: (attend(*qkv) * y).sum(), (0, 1, 2))(*qkv)

    want = loss(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, bias, mask))
    got = loss(lambda q, k, v: cudnn.flash_attention(q, k, v, mask, bias))
    chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-6)
