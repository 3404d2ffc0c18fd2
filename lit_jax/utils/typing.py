"""Types that many modules share, and the letters of shapes.

Shape letters, the same in every file:
  B batch, b rows of one device or host, N tokens, D width, H heads, K head width, F feed-forward width,
  E shared embedding width, L layers (the leading axis of every stacked weight), S1 and S2 height and width of an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

Params = dict[str, Any]  # Nested; the leaves are arrays.
Batch = Mapping[str, Any]  # "images" or "pooled_images", "texts", "index": see lit_jax.data.


@dataclass(frozen=True)
class ProcessShard:
    """Which part of the rows of a batch a process reads: the part `index` of `count` equal ones."""

    index: int = 0
    count: int = 1


WHOLE_BATCH = ProcessShard()  # The shard of a run with one process.


@runtime_checkable
class Decode(Protocol):
    """The bytes of an image file -> RGB, or the four channels of `utils.naflex`.

    Raises `DataError` for a file that is not a usable image.
    """

    def __call__(self, data: bytes, /) -> UInt8[np.ndarray, "S1 S2 C"]: ...


@runtime_checkable
class TrainDecode(Decode, Protocol):
    """A `Decode` for training: everything random about the image is a function of `key`."""

    def __call__(self, data: bytes, key: int = 0, /) -> UInt8[np.ndarray, "S1 S2 C"]: ...


@runtime_checkable
class Tokenize(Protocol):
    """Texts -> {"input_ids"[, "attention_mask"][, "token_type_ids"]}, int32 [n, N] each. Raises `DataError`."""

    def __call__(self, texts: Sequence[str], /) -> dict[str, np.ndarray]: ...


@runtime_checkable
class CountTokens(Protocol):
    """Texts -> the number of tokens of each text before it is truncated."""

    def __call__(self, texts: Sequence[str], /) -> list[int]: ...


@runtime_checkable
class Progress(Protocol):
    """Called after each batch or part with how much is done, and out of how much."""

    def __call__(self, done: int, total: int, /) -> object: ...


@runtime_checkable
class ImageProcessor(Protocol):
    """The parts that are used of a transformers image processor with the PIL backend."""

    do_resize: Any
    do_rescale: Any
    do_normalize: Any
    size: Any  # A mapping with "shortest_edge", or with "height" and "width"; None if pictures keep their shapes.
    resample: Any
    rescale_factor: Any
    image_mean: Any  # One number, or one for each channel.
    image_std: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def to_dict(self) -> dict[str, Any]: ...

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any: ...


@runtime_checkable
class Tokenizer(Protocol):
    """The parts that are used of a transformers tokenizer; a fast one also has a `backend_tokenizer`."""

    model_max_length: int
    padding_side: str
    truncation_side: str
    model_input_names: Any

    # transformers finds these by `__getattr__`, where isinstance does not see them from Python 3.12 on.
    if TYPE_CHECKING:

        @property
        def pad_token(self) -> Any: ...

        @property
        def pad_token_id(self) -> Any: ...

    @property
    def pad_token_type_id(self) -> int: ...

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any: ...


@runtime_checkable
class Processor(Protocol):
    """The parts that are used of `transformers.VisionTextDualEncoderProcessor`, which is slow to import."""

    image_processor: ImageProcessor
    tokenizer: Tokenizer

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any: ...
