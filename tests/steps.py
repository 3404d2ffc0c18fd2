"""What the tests of training steps train: a small model with its batches, and the smallest possible one."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lit_jax.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from lit_jax.data.transforms.normalize import PixelNormalizer
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.models.layers.spec import Compute
from lit_jax.parallel.sharding import make_mesh, put_batch
from lit_jax.train import build
from lit_jax.train.optim import make_optimizer, make_schedule
from lit_jax.train.train_step import make_train_step
from lit_jax.utils.names import TOWERS
from tests.tiny import BERT, VIT, dual_config, randomised

BATCH_SIZE, LENGTH, STEPS = 16, 12, 20
# Both towers have dropout; the width, feed-forward width and tokens of the image tower occur nowhere else.
VISION = VIT | {"hidden_size": 44, "intermediate_size": 88, "hidden_dropout_prob": 0.1}
VISION_SIZES = {44, 88, 17}
TEXT = BERT | {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
MODULE = DualEncoder(dual_config(VISION, TEXT))
PIXELS = PixelNormalizer(32, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
OPTIM = OptimConfig(peak_lr=1e-3, warmup_steps=2, weight_decay=0.1)
TX = make_optimizer(OPTIM, make_schedule(OPTIM, STEPS))


def make_step(
    module, mesh, tx=TX, pixels=None, dropout=TOWERS, max_logit_scale=None, matryoshka=(), **fields
):
    """A train step of a config with these `fields`; `dropout` names the towers that use it."""
    letters = "".join("U" if tower in dropout else "L" for tower in TOWERS)
    model = ModelConfig("", "", lock_towers=letters, max_logit_scale=max_logit_scale, matryoshka=matryoshka)
    config = TrainConfig(STEPS, BATCH_SIZE, model, **({"data": DataConfig("")} | fields))
    return make_train_step(module, tx, mesh, config, pixels)


@contextlib.contextmanager
def step_made_by(making):
    """Replaces `build.make_train_step` by `making` and keeps steps made inside the block apart from those outside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "make_train_step", making)
        build.step_of.cache_clear()
        try:
            yield
        finally:
            build.step_of.cache_clear()


@functools.cache
def params_of_module():
    return {**randomised(dual_encoder.init_params(MODULE, 0)), "logit_bias": np.float32(-10)}


@functools.cache
def mesh_of(data, fsdp):
    return make_mesh(data, fsdp, jax.devices()[: data * fsdp])


def batch_of(step):
    rng = np.random.default_rng(step)
    lengths = rng.integers(3, LENGTH + 1, size=(BATCH_SIZE, 1))
    return {
        "images": rng.integers(0, 256, size=(BATCH_SIZE, 32, 32, 3), dtype=np.uint8),
        "texts": {
            "input_ids": rng.integers(0, 99, size=(BATCH_SIZE, LENGTH), dtype=np.int32),
            "attention_mask": (np.arange(LENGTH) < lengths).astype(np.int32),
        },
        "index": np.arange(BATCH_SIZE, dtype=np.int32),
    }


class Linear(nn.Module):
    """The smallest model that a step can train, for tests that do not depend on the towers."""

    compute: Compute = Compute()

    def setup(self):
        self.vision, self.text = nn.Dense(8), nn.Dense(8)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(np.log(100.0)), ())

    def __call__(self, texts=None, pooled_images=None, pooled_texts=None, train=()):
        texts = self.pool_texts(texts) if pooled_texts is None else pooled_texts
        return self.vision(pooled_images), texts, jnp.exp(self.logit_scale)

    def pool_texts(self, texts):
        return self.text(texts["x"])


def linear(mesh):
    """The params of `Linear`, and a batch on `mesh` in which no text belongs to its image."""
    x = np.eye(16, 8, dtype=np.float32)
    batch = {"texts": {"x": x}, "pooled_images": -x}
    return Linear().init(jax.random.key(0), **batch)["params"], put_batch(batch, mesh)
