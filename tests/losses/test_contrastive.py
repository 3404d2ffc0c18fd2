"""The sharded losses equal the dense loss of one device, in value and in gradient, however the batch is compared."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from lit_jax.losses.contrastive import LossConfig, Targets, contrastive_loss
from lit_jax.losses.kinds import KINDS
from lit_jax.parallel.sharding import AXES, BATCH, make_mesh
from lit_jax.utils.errors import ConfigError

MESHES = {"1": (1, 1), "2x1": (2, 1), "4x1": (4, 1), "8x1": (8, 1), "4x2": (4, 2), "1x8": (1, 8)}
WAYS = {
    "gathered": {},
    "gathered in chunks": {"chunk": 16},
    "ring": {"how": "ring"},
    "ring in chunks": {"how": "ring", "chunk": 4},
}
B = 64
RNG = np.random.default_rng(1)
VALID = RNG.random(B) < 0.8
VALID[-8:] = False  # All rows of one of eight devices.
IMAGE_IDS, CAPTION_IDS = RNG.integers(20, size=B), RNG.integers(40, size=B)
CASES = {
    "plain": {},
    "padded": {"valid": VALID},
    "one id": {"groups": (IMAGE_IDS,)},
    "two ids": {"groups": (IMAGE_IDS, CAPTION_IDS)},
    "smooth": {"label_smoothing": 0.1},
    "all of these": {"valid": VALID, "groups": (IMAGE_IDS, CAPTION_IDS), "label_smoothing": 0.2},
    "no negatives": {"groups": (np.zeros(B, int),), "label_smoothing": 0.1},
    "no pairs": {"valid": np.zeros(B, bool)},
}
SOFT = RNG.random((B, B)).astype(np.float32) ** 8
SOFT[3], SOFT[:, 5] = 0, 0
SOFT_CASES = {name: CASES[name] | {"soft": SOFT} for name in ("plain", "padded", "two ids")}


def dense(kind, images, texts, scale, bias, *, valid=None, groups=(), label_smoothing=0.0, soft=None):
    """The definition, with all B x B logits on one device, and without the shifts and tricks of the package."""
    eye = np.eye(len(images), dtype=bool)
    valid = np.ones(len(images), bool) if valid is None else valid
    images, texts = (jnp.where(valid[:, None], x, 0) for x in (images, texts))
    own, others = eye & valid, ~eye & valid & valid[:, None]
    for ids in groups:
        others &= ids[:, None] != ids
    asked = own | others
    logits = jnp.matmul(scale * images, texts.T, precision="highest")

    def answers(soft):
        """The target of each row in the direction in which rows ask; `own` and `others` are the same in both."""
        if soft is not None:
            soft = np.where(asked, soft, 0)
            return np.where(
                soft.sum(1, keepdims=True) > 0, soft / np.maximum(soft.sum(1, keepdims=True), 1e-30), own
            )
        number = others.sum(1, keepdims=True)
        smooth = (1 - label_smoothing) * own + label_smoothing * others / np.maximum(number, 1)
        return np.where(number > 0, smooth, own)

    def one_way(logits, soft):
        log_p = jax.nn.log_softmax(jnp.where(asked, logits, -1e30))
        return -jnp.where(asked, answers(soft) * log_p, 0).sum()

    if kind == "softmax":
        back = None if soft is None else soft.T
        total = (one_way(logits, soft) + one_way(logits.T, back)) / 2 + 0 * bias
    else:
        wanted = (answers(None) + answers(None).T) / 2 if soft is None else soft
        each = jnp.where(asked, optax.sigmoid_binary_cross_entropy(logits + bias, wanted), 0)
        total = each.sum(1).sum()  # In two steps, since JAX before 0.10.2 loses a digit in one.
    return total / max(valid.sum(), 1)


def sharded(loss, data, fsdp, *, valid=None, groups=(), soft=None, check_vma=True, **options):
    mesh, config = make_mesh(data, fsdp, jax.devices()[: data * fsdp]), LossConfig(loss, **options)

    def mapped(images, texts, scale, bias, targets):
        return contrastive_loss(config, images, texts, scale, bias, targets, axis=AXES)

    call = jax.shard_map(
        mapped, mesh=mesh, in_specs=(BATCH, BATCH, P(), P(), BATCH), out_specs=P(), check_vma=check_vma
    )
    return jax.jit(lambda *args: call(*args, Targets(valid, groups, soft)))


def pairs(batch=B, width=16, seed=0, scale=14.0):
    """Unit vectors with partners a little nearer than the others, and a scale and a bias as in training.

    They are not much nearer, since a loss near 0 is a difference of nearly equal numbers and so inexact.
    """
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(batch, width)).astype(np.float32)
    texts = images + 2 * rng.normal(size=images.shape).astype(np.float32)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)]
    return (*unit, np.float32(scale), np.float32(-10.0))


def with_gradients(f, args):
    value, grads = jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2, 3)))(*args)
    return np.asarray(value), [np.asarray(grad) for grad in grads]


def assert_equal(loss, mesh, args, ways, rtol=1e-6, atol=5e-6, check_vma=True, **case):
    with jax.enable_x64(True):
        exact = [np.asarray(x, np.float64) for x in args]
        want, want_grads = with_gradients(partial(dense, loss, **case), exact)
    got, grads = with_gradients(sharded(loss, *MESHES[mesh], check_vma=check_vma, **ways, **case), args)
    np.testing.assert_allclose(got, want, rtol=rtol)
    for grad, want_grad in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(grad, want_grad, rtol=0, atol=atol * np.abs(want_grad).max())
    return grads


@pytest.mark.sampled(17)
@pytest.mark.parametrize("loss", KINDS)
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("way", WAYS)
def test_the_loss_of_shards_is_the_loss_of_the_batch(loss, mesh, way):
    assert_equal(loss, mesh, pairs(), WAYS[way])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("loss", KINDS)
@pytest.mark.parametrize("way", ["gathered", "ring"])
@pytest.mark.parametrize("batch", [8, 1024])
def test_the_same_holds_for_one_pair_on_each_device_and_for_many(loss, batch, way):
    assert_equal(loss, "4x2", pairs(batch, width=32), WAYS[way])


@pytest.mark.sampled(15)
@pytest.mark.parametrize("loss", KINDS)
@pytest.mark.parametrize("case", [name for name in CASES if name != "plain"])
@pytest.mark.parametrize("way", WAYS)
def test_padding_ids_and_smoothing_are_those_of_the_dense_loss(loss, case, way):
    images, texts, *rest = pairs()
    valid = CASES[case].get("valid")
    if valid is not None:
        images[~valid], texts[~valid] = np.nan, 1e30
    grads = assert_equal(loss, "4x2", (images, texts, *rest), WAYS[way], **CASES[case])
    if valid is not None:
        assert not grads[0][~valid].any() and not grads[1][~valid].any()


@pytest.mark.sampled(8)
@pytest.mark.parametrize("loss", KINDS)
@pytest.mark.parametrize("case", SOFT_CASES)
@pytest.mark.parametrize("mesh", ["1", "4x2"])
def test_soft_targets_are_those_of_the_dense_loss(loss, case, mesh):
    assert_equal(loss, mesh, pairs(), {}, **SOFT_CASES[case])


def test_exponentials_of_a_teacher_act_as_its_softmax_in_both_directions():
    teacher = 5 * np.random.default_rng(2).normal(size=(B, B)).astype(np.float32)
    images, texts, scale, bias = pairs()
    logits = scale * images @ texts.T

    def one_way(logits, teacher):
        return optax.softmax_cross_entropy(logits, jax.nn.softmax(teacher)).mean()

    want = (one_way(logits, teacher) + one_way(logits.T, teacher.T)) / 2
    got = sharded("softmax", 4, 2, soft=np.exp(teacher))(images, texts, scale, bias)
    np.testing.assert_allclose(got, want, rtol=2e-6)


def test_no_gradient_reaches_the_soft_targets():
    grad = jax.grad(lambda soft: sharded("softmax", 4, 2, soft=soft)(*pairs()))(jnp.asarray(SOFT))
    assert not grad.any()


@pytest.mark.sampled(8)
@pytest.mark.parametrize("loss", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_the_loss_is_the_same_without_the_checks_of_shard_map(loss, way):
    assert_equal(loss, "4x2", pairs(), WAYS[way], check_vma=False, **CASES["all of these"])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("loss", KINDS)
@pytest.mark.parametrize("way", ["gathered", "ring"])
def test_a_gradient_taken_inside_shard_map_is_that_of_the_batch(loss, way):
    def inside(*args):
        f = partial(contrastive_loss, LossConfig(loss, **WAYS[way]), axis=AXES)
        return jax.grad(f, argnums=(0, 1, 2, 3))(*args)

    specs = (BATCH, BATCH, P(), P())
    got = jax.jit(jax.shard_map(inside, mesh=make_mesh(4, 2), in_specs=specs, out_specs=specs))(*pairs())
    want = with_gradients(partial(dense, loss), pairs())[1]
    for grad, want_grad in zip(got, want, strict=True):
        np.testing.assert_allclose(grad, want_grad, rtol=0, atol=5e-6 * np.abs(want_grad).max())


@pytest.mark.parametrize("loss", KINDS)
def test_a_shuffled_batch_has_a_higher_loss(loss):
    images, texts, scale, bias = pairs()
    f = sharded(loss, 8, 1)
    assert f(images, np.roll(texts, 1, axis=0), scale, bias) > f(images, texts, scale, bias) + 1


@pytest.mark.sampled(3)
@pytest.mark.parametrize("way", WAYS)
def test_the_softmax_loss_of_equal_rows_is_the_log_of_the_batch_size(way):
    rows = np.tile(np.eye(1, 16, dtype=np.float32), (32, 1))
    value, grads = with_gradients(sharded("softmax", 4, 2, **WAYS[way]), (rows, rows, 10.0, 0.0))
    np.testing.assert_allclose(value, np.log(32), rtol=1e-6)
    np.testing.assert_allclose(np.concatenate(grads[:2]), 0, atol=1e-6)


def test_softmax_ignores_the_bias():
    images, texts, scale, _ = pairs(16)
    f = sharded("softmax", 8, 1)
    assert f(images, texts, scale, 0.0) == f(images, texts, scale, -10.0)
    assert jax.grad(f, argnums=3)(images, texts, scale, -10.0) == 0


@pytest.mark.sampled(3)
@pytest.mark.parametrize("loss", KINDS)
@pytest.mark.parametrize("way", ["gathered", "ring"])
def test_the_loss_of_bfloat16_embeddings_is_float32(loss, way):
    images, texts, scale, bias = pairs()
    low = [x.astype(jnp.bfloat16) for x in (images, texts)]
    got, grads = jax.value_and_grad(sharded(loss, 8, 1, **WAYS[way]), argnums=(0, 1))(*low, scale, bias)
    assert got.dtype == jnp.float32 and {grad.dtype for grad in grads} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(got, dense(loss, *(x.astype(np.float32) for x in low), scale, bias), rtol=1e-6)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("loss", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_logits_far_from_zero_stay_finite(loss, way):
    images, texts, _, bias = pairs(32)
    value, grads = with_gradients(sharded(loss, 8, 1, **WAYS[way]), (images, -texts, np.float32(1e4), bias))
    assert np.isfinite(value) and all(np.isfinite(grad).all() for grad in grads)


def separated(scale, batch=B, width=64, nats=13.0):
    """Pairs whose loss is about exp(-nats): every rival is that much less likely than the partner, or more."""
    rng = np.random.default_rng(5)
    spread = math.sqrt(min(nats / scale, 0.9))
    centre, images = rng.normal(size=width), rng.normal(size=(batch, width))
    images = centre / np.linalg.norm(centre) + spread * images / np.linalg.norm(images, axis=1, keepdims=True)
    texts = images + 0.02 * spread * rng.normal(size=images.shape)
    unit = [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (images, texts)]
    return (*unit, np.float32(scale), np.float32(-scale))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("loss", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_row_of_zeros_is_treated_like_any_other(loss, way):
    images, texts, *rest = pairs()
    images[9], texts[30] = 0, 0
    assert_equal(loss, "4x2", (images, texts, *rest), WAYS[way])


def largest(text):
    """The number of elements of the largest array in a compiled program."""
    return max(
        math.prod(map(int, shape.split(","))) for shape in re.findall(r"\b[a-z]+\d*\[(\d[\d,]*)\]", text)
    )


def compiled(loss, batch, width, argnums=(0, 1, 2), **options):
    mesh = make_mesh(4, 2)
    f = jax.shard_map(
        partial(contrastive_loss, LossConfig(loss, **options), axis=AXES),
        mesh=mesh,
        in_specs=(BATCH, BATCH, P(), P()),
        out_specs=P(),
    )
    rows, scalar = jax.ShapeDtypeStruct((batch, width), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    return jax.jit(jax.value_and_grad(f, argnums)).lower(rows, rows, scalar, scalar).compile().as_text()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("loss", KINDS)
@pytest.mark.parametrize(
    ("options", "columns"),
    [
        ({}, 32768),
        ({"chunk": 512}, 512),
        ({"how": "ring"}, 4096),
        ({"how": "ring", "chunk": 512}, 512),
        ({"how": "ring", "chunk": 512, "label_smoothing": 0.1}, 512),
    ],
    ids=str,
)
def test_no_array_is_larger_than_the_tile_that_was_asked_for(loss, options, columns):
    text = compiled(loss, 32768, 16, **options)
    assert largest(text) == 32768 // 8 * columns
    if options.get("how") == "ring":  # Only numbers of pairs, never embeddings, are on every device.
        assert "collective-permute" in text and "[32768,16]" not in text


def test_ids_and_padding_need_no_larger_array():
    config = LossConfig(how="ring", chunk=512, label_smoothing=0.1)

    def f(images, texts, valid, ids):
        targets = Targets(valid, groups=(ids, ids))
        return contrastive_loss(config, images, texts, jnp.float32(9), jnp.float32(0), targets, axis=AXES)

    f = jax.shard_map(f, mesh=make_mesh(4, 2), in_specs=BATCH, out_specs=P())
    rows = jax.ShapeDtypeStruct((32768, 16), jnp.float32)
    valid, ids = (jax.ShapeDtypeStruct((32768,), dtype) for dtype in (bool, jnp.int32))
    step = jax.jit(jax.value_and_grad(f, (0, 1)))
    assert largest(step.lower(rows, rows, valid, ids).compile().as_text()) == 4096 * 512


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "rings"}, "how='rings' is unknown: wanted one of gathered, ring"),
        ({"chunk": 24}, "chunk=24 does not divide the 64 texts of the whole batch"),
        (
            {"how": "ring", "chunk": 3},
            "chunk=3 does not divide the 8 texts of each device .*8 pairs on each of 8",
        ),
        ({"chunk": 0}, "chunk=0 does not divide"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"soft": SOFT, "how": "ring"}, "found 'ring'"),
        ({"soft": SOFT, "chunk": 16}, "found 'gathered', 16"),
        ({"soft": SOFT, "label_smoothing": 0.1}, "and 0.1"),
        ({"soft": SOFT[:, :32]}, r"\(8, 32\): wanted \(8, 64\)"),
    ],
)
def test_a_config_that_cannot_be_computed_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        sharded("softmax", 8, 1, **options)(*pairs())


def test_an_unknown_loss_is_refused():
    with pytest.raises(ConfigError, match="loss 'hinge' is unknown: wanted one of softmax, sigmoid"):
        sharded("hinge", 8, 1)(*pairs())


def test_a_chunk_larger_than_all_keys_holds_all_of_them():
    f = sharded("softmax", 8, 1, how="ring", chunk=100)
    assert f(*pairs()) == sharded("softmax", 8, 1, how="ring")(*pairs())


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="divisible"):
        sharded("softmax", 8, 1)(*pairs(12))
