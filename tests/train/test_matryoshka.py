"""The loss of prefixes is the sum of the dense losses of embeddings that are cut and normalised again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lit_jax.config import DataConfig, ModelConfig, TrainConfig
from lit_jax.losses.kinds import KINDS
from lit_jax.parallel.sharding import put_batch
from lit_jax.train.loop import train
from lit_jax.train.loss_and_grad import LossAndGrad
from lit_jax.train.matryoshka import check_widths, first
from lit_jax.train.partition import lock_rules
from lit_jax.train.state import init_state
from lit_jax.train.trained import read_trained
from lit_jax.utils.errors import ConfigError
from tests import tiny
from tests.losses import test_captions, test_contrastive
from tests.losses.test_contrastive import WAYS, with_gradients
from tests.steps import MODULE, PIXELS, batch_of, make_step, mesh_of, params_of_module

WIDTHS = (3, 8, 16)  # An embedding has 16 numbers.


def compared(widths, devices, groups=(), **fields):
    """The loss of a config with these `fields`, as a function of embeddings, scale and bias."""
    data = DataConfig("", captions_per_image=fields.pop("captions", 1))
    config = TrainConfig(5, 64, ModelConfig("", "", matryoshka=widths), data, **fields)
    loss = LossAndGrad(MODULE, mesh_of(devices, 1), config, None)

    def value(images, texts, scale, bias):
        params = {"logit_scale": jnp.log(scale), "logit_bias": bias}
        return loss.compare(groups, images, texts, params, {})

    return value


def dense(widths, of_whole):
    """The sum of `of_whole` over the widths, with embeddings cut and normalised; whole ones stay as they are."""

    def cut(x, width):
        return x if width == 16 else x[..., :width] / jnp.sqrt((x[..., :width] ** 2).sum(-1, keepdims=True))

    def value(images, texts, scale, bias):
        return sum(of_whole(cut(images, w), cut(texts, w), scale, bias) for w in widths)

    return value


def assert_same(sharded, wanted, args):
    with jax.enable_x64(True):
        want, want_grads = with_gradients(wanted, [np.asarray(x, np.float64) for x in args])
    got, grads = with_gradients(sharded, args)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for grad, want_grad in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(grad, want_grad, rtol=0, atol=5e-6 * np.abs(want_grad).max())


@pytest.mark.sampled(32)  # The fast cases have one, two and eight devices, both kinds and three ways.
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("way", WAYS)
def test_the_loss_is_the_sum_of_the_dense_losses_of_the_prefixes(kind, devices, way):
    options = {{"how": "loss_how", "chunk": "loss_chunk"}[name]: value for name, value in WAYS[way].items()}
    sharded = compared(WIDTHS, devices, loss=kind, **options)
    wanted = dense(WIDTHS, lambda *args: test_contrastive.dense(kind, *args))
    assert_same(sharded, wanted, test_contrastive.pairs())


@pytest.mark.parametrize("kind", ["sigmoid", pytest.param("softmax", marks=pytest.mark.slow)])
def test_numbers_beyond_the_last_width_do_not_affect_the_loss(kind):
    args = test_contrastive.pairs()
    sharded = compared(WIDTHS[:2], 2, loss=kind)
    assert_same(sharded, dense(WIDTHS[:2], lambda *args: test_contrastive.dense(kind, *args)), args)
    _, (at_images, at_texts, *_) = with_gradients(sharded, args)
    for grad in (at_images, at_texts):
        assert not grad[:, 8:].any() and grad[:, :8].any()


@pytest.mark.slow
@pytest.mark.parametrize("positives", ["all", pytest.param("one", marks=pytest.mark.slow)])
def test_several_captions_of_a_picture_are_cut_too(positives):
    groups = tuple(map(jnp.asarray, test_captions.CASES["ids"]["groups"]))
    sharded = compared(WIDTHS[1:], 4, groups, captions=test_captions.K, positives=positives)
    case = test_captions.CASES["ids"]
    wanted = dense(WIDTHS[1:], lambda *args: test_captions.dense(positives, "softmax", *args, **case))
    assert_same(sharded, wanted, test_captions.pairs())


def test_the_full_width_alone_gives_the_loss_without_widths():
    args = test_contrastive.pairs()
    whole = with_gradients(compared((), 2), args)
    jax.tree.map(np.testing.assert_array_equal, with_gradients(compared((16,), 2), args), whole)


def test_a_prefix_of_zeros_has_a_gradient_of_zeros():
    row = np.zeros((1, 4), np.float32)
    row[0, 3] = 1
    value, grad = jax.jit(jax.value_and_grad(lambda x: (first(x, 2) ** 2).sum()))(row)
    assert value == 0 and not np.asarray(grad).any()


@pytest.mark.slow
def test_micro_batches_give_the_loss_of_the_batch():
    losses = {}
    for micro_batch in (0, 4):
        tx = optax.sgd(0.01)
        state = init_state(params_of_module(), lock_rules("LU"), tx, mesh_of(2, 1))
        options = {"micro_batch": micro_batch, "matryoshka": (4, 16), "dropout": ()}
        step = make_step(MODULE, mesh_of(2, 1), tx, pixels=PIXELS, **options)
        _, metrics = step(state, put_batch(batch_of(0), mesh_of(2, 1)))
        losses[micro_batch] = [float(metrics["loss"]), float(metrics["grad_norm"])]
    np.testing.assert_allclose(losses[4], losses[0], rtol=1e-5)


def test_embeddings_that_are_narrower_than_a_width_are_refused():
    check_widths((), 8)
    check_widths((4, 8), 8)
    with pytest.raises(
        ConfigError, match=r"matryoshka=\(4, 9\) ends with 9, and the embeddings of this model have 8"
    ):
        check_widths((4, 9), 8)


@pytest.mark.slow
def test_the_model_of_a_run_remembers_its_widths(tmp_path):
    config = tiny.config(tmp_path, steps=3, model__matryoshka=(4, 16), cache=True)
    train(config, tmp_path / "run")
    run = read_trained(tmp_path / "run")
    assert run.module.config.matryoshka == (4, 16)
    assert run.module.config.to_hf()["matryoshka_dimensions"] == [4, 16]
    assert run.module.config == dataclasses.replace(run.module.config, matryoshka=())
