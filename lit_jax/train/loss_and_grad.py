"""The loss of a batch, its gradient at the tuned params, and the embeddings: in one piece or in micro-batches."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from lit_jax.config import TrainConfig
from lit_jax.data.transforms.normalize import PixelNormalizer
from lit_jax.losses.captions import captions_loss
from lit_jax.losses.contrastive import LossConfig, Targets, contrastive_loss
from lit_jax.models import heads
from lit_jax.models.layers.packing import TARGET, without_packing
from lit_jax.parallel.sharding import AXES, BATCH
from lit_jax.train.grad_cache import READ_BY, Parts, accumulated, check_micro_batch
from lit_jax.train.matryoshka import loss_of_prefixes
from lit_jax.train.partition import combine
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.names import TOWERS
from lit_jax.utils.typing import Batch, Params

_TEXTS = ("texts", "pooled_texts")  # The inputs with several rows for an image with several captions.
_INPUTS = (*_TEXTS, "images", "pooled_images")  # The inputs of the model in a batch.
# Unit embeddings of images [B E] and of texts [B E], or [B K E] with K texts for each image.
Embedded = tuple[Array, Array]


def loss_config(config: TrainConfig, platform: str) -> LossConfig:
    """The part of a config that the loss itself reads, for devices of this platform."""
    precision = config.loss_precision
    return LossConfig(
        config.loss,
        config.loss_how,
        config.loss_chunk or None,
        config.label_smoothing,
        "split" if (precision, platform) == ("float32", "tpu") else precision,
    )


@dataclass(frozen=True)
class LossAndGrad:
    """`(tuned, locked, batch, key) -> (loss, gradient at `tuned`, embeddings)`, to be called inside jit.

    Only the tuned subtree is differentiated, so a locked tower runs only forward, and without dropout. Raises
    ConfigError as `make_train_step` says.
    """

    module: nn.Module
    mesh: Mesh
    config: TrainConfig
    pixels: PixelNormalizer | None

    def __call__(
        self, tuned: Params, locked: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Params, Embedded]:
        inputs = {name: batch[name] for name in _INPUTS if name in batch}
        if "images" in inputs and self.pixels is None:
            raise ConfigError("the batch holds images and not pooled_images: make the step with pixels")
        if self.config.loss == "sigmoid" and "logit_bias" not in tuned | locked:
            raise ConfigError(
                "the sigmoid loss needs params['logit_bias'] (SigLIP starts it at -10): found none"
            )
        groups: tuple[Array, ...] = ()
        if self.config.mask_duplicates:
            known = "text_groups" in batch  # They come with cached texts.
            texts = batch["text_groups"] if known else fingerprint(batch["texts"]["input_ids"])
            groups = (batch["index"], texts)
        compare = partial(self.compare, groups)
        run = partial(self.run, tuned, locked, key=key, compare=compare)
        if (fit := _fit(inputs.get("texts", {}))) is None:
            return run(inputs)
        return lax.cond(
            fit, run, lambda inputs: run(inputs | {"texts": without_packing(inputs["texts"])}), inputs
        )

    def run(
        self, tuned: Params, locked: Params, inputs: dict[str, Any], *, key: Array, compare: Any
    ) -> tuple[Float[Array, ""], Params, Embedded]:
        """Runs in one piece or in micro-batches. `compare(images, texts, tuned, locked)` is the loss of embeddings."""
        rows, micro_batch = len(jax.tree.leaves(inputs)[0]), self.config.micro_batch
        if not micro_batch or micro_batch == rows:
            return self.in_one_piece(tuned, locked, inputs, key, compare)
        check_micro_batch(micro_batch, rows, self.mesh)
        parts = Parts(rows // micro_batch, self.embed, self.pool, compare)
        return accumulated(parts, tuned, locked, inputs, key, self.mesh)

    @property
    def captions(self) -> int:
        """K, the captions of each image in a batch. If K > 1, arrays of texts are [B K ...]."""
        return self.config.data.captions_per_image

    def in_one_piece(
        self, tuned: Params, locked: Params, inputs: dict[str, Any], key: Array, compare: Any
    ) -> tuple[Float[Array, ""], Params, Embedded]:
        """Runs the whole batch at once. `compare(images, texts, tuned, locked)` is the loss of its embeddings."""
        inputs = dict(inputs)
        ready = [name for name, tower in READ_BY.items() if name in inputs and tower not in tuned]
        for name in ready:
            inputs[f"pooled_{name}"] = self.pool(tuned, locked, name, inputs.pop(name))
        if ready:
            # Without the barrier XLA can run the locked tower between the two passes of the other tower, when memory
            # also holds everything that the backward pass needs.
            inputs = lax.optimization_barrier(inputs)

        def loss(tuned: Params) -> tuple[Float[Array, ""], Embedded]:
            embedded = self.embed(tuned, locked, inputs, key)
            return compare(*embedded, tuned, locked), embedded

        (value, embedded), grads = jax.value_and_grad(loss, has_aux=True)(tuned)
        return value, grads, embedded

    def embed(self, tuned: Params, locked: Params, inputs: dict[str, Any], key: Array) -> Embedded:
        """Unit embeddings of both sides; the parts `with_dropout` use dropout if they have tuned weights."""
        if "images" in inputs:
            inputs = inputs | {"images": self._normalised(inputs["images"])}
        inputs = {name: self._in_rows(name, x) for name, x in inputs.items()}
        outputs: Any = self.module.apply(
            {"params": combine(tuned, locked)},
            **inputs,
            train=tuple(part for part in with_dropout(self.config) if part in tuned),
            rngs={"dropout": key},
        )
        images, texts = outputs[:2]
        return images, self._by_image("texts", texts)

    def pool(self, tuned: Params, locked: Params, name: str, given: Any) -> Array:
        """The pooled outputs of a tower, [B D], for the `given` "images" or "texts"."""
        if name == "images":
            given = self._normalised(given)
        params = {"params": combine(tuned, locked)}
        pooled: Any = self.module.apply(params, self._in_rows(name, given), method=f"pool_{name}")
        return self._by_image(name, pooled)

    def _in_rows(self, name: str, given: Any) -> Any:
        """Reshapes arrays of texts [B K ...] for the towers, [B*K ...]; other inputs stay as they are."""
        if self.captions == 1 or name not in _TEXTS:
            return given
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), given)

    def _by_image(self, name: str, rows: Array) -> Array:
        """Undoes `_in_rows` for the outputs of a tower."""
        if self.captions == 1 or name not in _TEXTS:
            return rows
        return rows.reshape(-1, self.captions, *rows.shape[1:])

    def compare(
        self, groups: tuple[Array, ...], images: Array, texts: Array, tuned: Params, locked: Params
    ) -> Float[Array, ""]:
        """The loss of the embeddings of the whole batch, or of the prefixes that `model.matryoshka` names."""
        params = combine(tuned, locked)
        config = loss_config(self.config, self.mesh.devices.flat[0].platform)
        own: Any = partial(contrastive_loss, config, axis=AXES)
        if self.captions > 1:
            own = partial(captions_loss, config, positives=self.config.positives, axis=AXES)
        loss = jax.shard_map(
            lambda images, texts, scale, bias, groups: own(
                images, texts, scale, bias, Targets(groups=groups)
            ),
            mesh=self.mesh,
            in_specs=(BATCH, BATCH, PartitionSpec(), PartitionSpec(), BATCH),
            out_specs=PartitionSpec(),
        )
        with jax.named_scope("loss"):
            scale, bias = jnp.exp(params["logit_scale"]), params.get("logit_bias", jnp.float32(0))
            return loss_of_prefixes(
                lambda images, texts: loss(images, texts, scale, bias, groups),
                *(images, texts, self.config.model.matryoshka),
            )

    def _normalised(self, images: Array) -> Array:
        assert self.pixels is not None  # `__call__` has checked it.
        return self.pixels.normalise(images, self.module.compute.dtype)


def _fit(texts: dict[str, Array]) -> Array | None:
    """Whether all tokens got a place in packed rows; None without packing, or without a mask: then they all did."""
    if TARGET not in texts or "attention_mask" not in texts:
        return None
    return jnp.all((texts[TARGET] >= 0) == (texts["attention_mask"] != 0))


def with_dropout(config: TrainConfig) -> list[str]:
    """The parts with dropout: heads, and towers except with the letter L, even if a new pooler is trained in them."""
    towers = [tower for tower, letter in zip(TOWERS, config.model.lock_towers, strict=True) if letter != "L"]
    return [*towers, *heads.NAMES.values()]


def fingerprint(ids: Int[Array, "*B N"]) -> Int[Array, "*B"]:
    """A number for each row, equal for equal rows and different for all others, except for one pair in 2^32."""
    weights = np.random.default_rng(0).integers(1 << 32, size=ids.shape[-1], dtype=np.uint32) | 1
    mixed = (ids.astype(jnp.uint32) + 1) * np.uint32(2_654_435_761)  # Knuth's multiplier, then a shift.
    return ((mixed ^ (mixed >> 15)) * weights).sum(axis=-1, dtype=jnp.uint32).astype(jnp.int32)
