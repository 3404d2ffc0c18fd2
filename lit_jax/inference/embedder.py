"""A model that is ready to embed: it is read once and used many times."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Float
from PIL import Image

from lit_jax.data.sources.base import Source
from lit_jax.data.sources.in_memory import Picture, as_source
from lit_jax.data.transforms.image_processor import make_decode, pixels_of
from lit_jax.data.transforms.tokenizer import make_count_tokens, make_tokenize, makes_mask, prompt_of
from lit_jax.hf import hub, load
from lit_jax.hf import processor as processing
from lit_jax.hf.text_length import PADDED, default_length, positions_of
from lit_jax.inference.embed_source import EmbedRunner, embed_images, embed_pooled, embed_texts
from lit_jax.inference.embed_step import make_embed_step
from lit_jax.inference.prefix import checked_dim, prefix
from lit_jax.inference.prompts import class_embeddings, class_texts
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.parallel.distributed import fetch
from lit_jax.parallel.sharding import make_mesh, put
from lit_jax.utils.arguments import list_of_texts, whole_number
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.typing import ImageProcessor, Params, Processor, Progress

log = logging.getLogger(__name__)

# Padded lengths of texts, in tokens; only a few, since each one is compiled.
_LENGTHS = (8, 16, 32, 64, 128, 256)


_PICTURES, _TEXTS = ("image", "bytes", "path"), ("text", "caption")  # Columns that `__call__` embeds.


class Opened(NamedTuple):
    """A model that was already read, for instance by `train.trained.read_trained`."""

    name: str
    module: DualEncoder
    params: Params
    processor: Processor


class Embedder:
    """Pictures and texts -> unit vectors [n, E], float32, with the dual encoder `model` on all devices.

    `model` is a folder, a Hub id or Opened. `batch_size` is the largest number of rows at once. `text_length` is in
    tokens; its default is what the tokenizer states and the text tower has positions for, up to 512. `image_processor`
    receives the model's image processor and returns the one to use. `dtype` is that of the arithmetic. With `dim`,
    vectors are the first `dim` numbers of the model's, normalised again. An Embedder can be pickled, with its weights,
    and called with a batch of Ray Data or Beam: see `__call__`. Raises ConfigError for arguments out of range and for a
    folder that does not exist, and WeightError for a model that cannot be read.
    """

    def __init__(
        self,
        model: str | Path | Opened,
        *,
        batch_size: int = 64,
        text_length: int | None = None,
        dtype: DTypeLike = jnp.float32,
        allow_pickle: bool = False,
        image_processor: Callable[[ImageProcessor], ImageProcessor] | None = None,
        dim: int | None = None,
    ) -> None:
        batch_size = whole_number(batch_size, "batch_size")
        if text_length is not None:
            text_length = whole_number(text_length, "text_length")
        if not isinstance(model, str | Path | Opened) or not str(model):
            given = repr(model) if isinstance(model, str) else f"of type {type(model).__name__}"
            raise ConfigError(f"the model is {given}; want a folder or a Hub id")
        if not isinstance(model, Opened):
            folder = hub.find(model, allow_pickle=allow_pickle)
            loaded = load.read_dual(folder, load.Compute(dtype=dtype), allow_pickle=allow_pickle)
            model = Opened(str(model), loaded.module, loaded.params, processing.load_processor(folder))
        self.name, self.config, self.processor = model.name, model.module.config, model.processor
        if image_processor is not None:
            self.processor.image_processor = image_processor(self.processor.image_processor)
        self.mesh, self.dtype = make_mesh(), jnp.dtype(dtype)
        self.width = checked_dim(dim, self.config.width, self.name)  # E
        self.batch_size = self._rows(batch_size)
        self._module, self._asked = model.module, batch_size
        positions = positions_of(self.config.text)
        if text_length is not None and text_length > positions:
            raise ConfigError(
                f"text_length is {text_length}, and the text tower of {self.name} has positions for {positions}; "
                f"give at most {positions}"
            )
        self.text_length = text_length or default_length(self.config.text, self.processor.tokenizer)
        self.scale = float(np.exp(model.params["logit_scale"]))
        images, tokenizer = self.processor.image_processor, self.processor.tokenizer
        self._decode = make_decode(images)
        self._count = make_count_tokens(tokenizer, self.text_length)
        module = load.with_compute(model.module, mesh=self.mesh)
        self._step = make_embed_step(module, self.mesh, pixels_of(images), self.dtype)
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        self._params = jax.tree.map(lambda leaf: put(leaf, everywhere), model.params)

    def __getstate__(self) -> dict[str, Any]:
        params = jax.tree.map(fetch, self._params)
        return {
            "model": Opened(self.name, self._module, params, self.processor),
            "batch_size": self._asked,
            "text_length": self.text_length,
            "dtype": self.dtype,
            "dim": self.width,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        model = state.pop("model")
        self.__init__(model, **state)  # type: ignore[misc]  # On the devices of the process that reads it.

    def __call__(self, batch: Mapping[str, np.ndarray | Sequence[Any]]) -> dict[str, Any]:
        """A batch of columns of n rows -> the same columns and embeddings, float32 [n, E], for engines such as Ray.

        `image_embedding` is computed from the column `image`, `bytes` or `path`: files' bytes, paths, or uint8 [H W 3];
        `text_embedding` from the column `text` or `caption`. Raises ConfigError if there is no such column, and for a
        value that is no text or array of this kind, and DataError for a picture that cannot be read.
        """
        made: dict[str, np.ndarray] = {}
        empty = np.zeros((0, self.width), np.float32)
        if name := next((name for name in _PICTURES if name in batch), None):
            rows = [_picture(value, f"{name} {number}") for number, value in enumerate(batch[name])]
            made["image_embedding"] = self.pictures(rows) if rows else empty
        if name := next((name for name in _TEXTS if name in batch), None):
            texts = list_of_texts(batch[name], name)
            made["text_embedding"] = self.texts(texts) if texts else empty
        if not made:
            raise ConfigError(
                f"the batch has the columns {', '.join(batch)}; want {' or '.join(_PICTURES)} for pictures, or "
                f"{' or '.join(_TEXTS)}; rename a column"
            )
        return {**batch, **made}

    def pictures(
        self,
        pictures: str | Path | Source | Picture | Iterable[Picture],
        *,
        batch_size: int | None = None,
        progress: Progress | None = None,
        tower: bool = False,
        on_bad_record: str = "error",
    ) -> Float[np.ndarray, "N E"]:
        """Embeddings of every picture, in order; with `tower`, the outputs of the image tower before the projection.

        `pictures` is a source or its name, a path, bytes, a Pillow image, or several of these. A picture that cannot be
        read raises DataError; if `on_bad_record` is "skip", its row is NaN instead.
        """
        source = as_source(pictures)
        rows = batch_size or min(self.batch_size, self._rows(len(source)))
        runner = self._runner(rows, progress)
        found = embed_images(runner, source, self._decode, tower=tower, on_bad_record=on_bad_record)
        return found if tower else prefix(found, self.width)

    def why_broken(self, source: Source, index: int) -> str:
        """Why the picture of a record has no embedding."""
        try:
            self._decode(source[index]["image"])
        except DataError as error:
            return str(error)
        return "its embedding is not finite, or it could not be read at first"

    def pooled(self, pooled: Float[np.ndarray, "N Dv"]) -> Float[np.ndarray, "N E"]:
        """Embeddings from outputs of the image tower, as `pictures` returns them or as training caches them."""
        rows = min(self.batch_size, self._rows(len(pooled)))
        return prefix(embed_pooled(self._runner(rows), pooled), self.width)

    def texts(self, texts: Iterable[str]) -> Float[np.ndarray, "M E"]:
        """Embeddings of every text, in order, padded to the length that the longest text needs.

        A warning counts the texts that are cut to `text_length`.
        Raises DataError for an empty list, and ConfigError for a single string and for elements that are not strings.
        """
        texts, length = list_of_texts(texts, "texts"), self.text_length
        tokenizer = self.processor.tokenizer
        counts = self._count(texts)
        if cut := sum(count > length for count in counts):
            log.warning("%d of %d texts are longer than %d tokens and are cut", cut, len(counts), length)
        of_any_length = makes_mask(tokenizer) and tokenizer.padding_side == "right"
        if self.config.text_type not in PADDED and of_any_length:
            longest = max(counts, default=0)
            length = min(length, next((step for step in _LENGTHS if step >= longest), length))
        tokenize = make_tokenize(tokenizer, length, self.config.text.vocab_size)
        rows = min(self.batch_size, self._rows(len(texts)))
        return prefix(embed_texts(self._runner(rows), texts, tokenize), self.width)

    def classes(self, labels: Sequence[str], templates: Sequence[str]) -> Float[np.ndarray, "C E"]:
        """Embeddings of every label, averaged over the templates. Raises DataError and ConfigError as `class_texts`."""
        return class_embeddings(self.texts(class_texts(labels, templates)), templates=len(templates))

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of everything that determines the embeddings: config, weights and processor."""
        images = self.processor.image_processor.to_dict()
        parts = [
            repr(self.config),
            json.dumps({name: images[name] for name in sorted(images) if name[0] != "_"}, default=str),
            self._count.fast.to_str(),  # A copy: calls of the tokenizer do not change its padding.
        ]
        if not makes_mask(self.processor.tokenizer):
            parts.append("texts without a mask")
        if own := self.config.own:
            parts.append(json.dumps(own, sort_keys=True))
        if prompt := prompt_of(self.processor.tokenizer):
            parts.append(f"prompt {prompt}")
        digest = hashlib.sha256("\0".join(parts).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self._params):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(fetch(leaf)).data)
        return digest.hexdigest()

    def _runner(self, batch_size: int, progress: Progress | None = None) -> EmbedRunner:
        return EmbedRunner(self._step, self._params, self.mesh, batch_size, progress)

    def _rows(self, wanted: int) -> int:
        """At least `wanted` rows, a power of two on each device, so that few sizes are compiled."""
        per_device = max(1, -(-wanted // self.mesh.size))
        return (1 << (per_device - 1).bit_length()) * self.mesh.size


def _picture(value: Any, what: str) -> Picture:
    """The Pillow image of an array, and any other value as it is. Raises ConfigError for an array that has none."""
    if not isinstance(value, np.ndarray):
        return value
    try:
        return Image.fromarray(value)
    except (TypeError, ValueError) as error:
        shape = " ".join(map(str, value.shape))
        raise ConfigError(f"{what} is an array of {value.dtype} [{shape}]; want uint8 [H W 3]") from error


def opened(
    model: str | Path | Embedder,
    *,
    dtype: DTypeLike = jnp.float32,
    allow_pickle: bool = False,
    text_length: int | None = None,
    dim: int | None = None,
) -> Embedder:
    """Returns `model` if it is an Embedder, and otherwise makes one from that folder or Hub id.

    Raises ConfigError if `text_length` or `dim` is given and differs from that of the Embedder.
    """
    if not isinstance(model, Embedder):
        return Embedder(model, dtype=dtype, allow_pickle=allow_pickle, text_length=text_length, dim=dim)
    if dim not in (None, model.width):
        raise ConfigError(
            f"dim is {dim}, and the Embedder gives {model.width} numbers; give dim to the Embedder"
        )
    if text_length not in (None, model.text_length):
        raise ConfigError(
            f"text_length is {text_length}, and the Embedder reads {model.text_length} tokens of a text; "
            "give text_length to the Embedder"
        )
    return model
