"""Pictures and captions into arrays, by the very processor that the Hugging Face folder names.

`Processor` is `transformers.VisionTextDualEncoderProcessor`, which needs no torch. What a picture goes through
before it is a tensor is split in two: `make_decode` gives uint8 pixels on the host, `Pixels.normalise` the
rest on the device; together they equal the image processor (PIL backend), which `pixels_of` checks.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8
from PIL import Image

from lit_jax._transformers import transformers
from lit_jax.errors import ConfigError, DataError, WeightError
from lit_jax.pictures import check_arrays, first_line, middle, open_image

Processor = Any  # transformers.VisionTextDualEncoderProcessor, whose import is too slow for an annotation.

CHARS_PER_TOKEN = 128  # Longer than any token (WordPiece: 100); text past `length` of these is never read.

_IMAGE_FILES = ("processor_config.json", "preprocessor_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")


@dataclass(frozen=True)
class Pixels:
    """From uint8 pixels to what the image tower reads; hashable, so it can be a static argument of jit.

    `size` is the side S of the square picture; `mean` and `std` are RGB, in the units after `rescale`.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale: float = 1 / 255

    def normalise(
        self,
        images: UInt8[Array, "b S S 3"] | UInt8[np.ndarray, "b S S 3"],
        dtype: DTypeLike = jnp.float32,
    ) -> Float[Array, "b S S 3"]:
        """`(images * rescale - mean) / std` in float32, then cast to `dtype`."""
        scaled = jnp.asarray(images, jnp.float32) * self.rescale
        return ((scaled - jnp.array(self.mean)) / jnp.array(self.std)).astype(dtype)


def __getattr__(name: str) -> Any:  # lit_jax.VisionTextDualEncoderProcessor, found here when it is asked for.
    if name != "VisionTextDualEncoderProcessor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return processor_class()


@cache
def processor_class() -> Any:
    """transformers' VisionTextDualEncoderProcessor, which here knows `return_tensors="jax"` as well.

    Made when it is asked for, since importing its parent takes seconds.
    """

    class VisionTextDualEncoderProcessor(transformers.VisionTextDualEncoderProcessor):
        """An image processor and a tokenizer in one, as in transformers; also gives jax arrays."""

        def __init__(self, image_processor: Any = None, tokenizer: Any = None, **options: Any) -> None:
            super().__init__(image_processor, tokenizer, **options)

        def __call__(self, *args: Any, return_tensors: str | None = None, **options: Any) -> Any:
            """As transformers, where `return_tensors` may also be "jax"."""
            for images in (*args, options.get("images")):  # Text among them is no array.
                check_arrays(images)
            wanted = "np" if return_tensors == "jax" else return_tensors
            batch = super().__call__(*args, return_tensors=wanted, **options)
            if return_tensors == "jax":
                batch.data = {name: jnp.asarray(value) for name, value in batch.data.items()}
            return batch

    return VisionTextDualEncoderProcessor


def load_processor(folder: str | Path) -> Processor:
    """The processor of a Hugging Face folder on disk, in the layout of transformers 5 or of 4.

    Reads `processor_config.json` or `preprocessor_config.json`, and the tokenizer files. Nothing is downloaded
    and no code of the folder is run. Raises `ConfigError` when there is no such folder and `WeightError` when
    it holds no image processor or no tokenizer that can be used.
    """
    return join_processors(folder, folder)


def join_processors(vision_folder: str | Path, text_folder: str | Path) -> Processor:
    """A processor of the image processor of one folder and the tokenizer of another; see `load_processor`."""
    return processor_class()(load_image_processor(vision_folder), load_tokenizer(text_folder))


def load_image_processor(folder: str | Path) -> Any:
    """The image processor of a folder; see `load_processor`."""
    found = _holding(folder, _IMAGE_FILES, "image processor")
    return _read(transformers.AutoImageProcessor, found, "image processor", backend="pil")


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a folder; see `load_processor`."""
    found = _holding(folder, _TOKENIZER_FILES, "tokenizer")
    return _read(transformers.AutoTokenizer, found, "tokenizer")


def save_processor(folder: str | Path, processor: Processor) -> None:
    """Writes `processor` in a layout that transformers 5 and 4.57 both read.

    5 reads `processor_config.json`, 4.57 `preprocessor_config.json`; both read the tokenizer files, in which
    two spellings that only 5 knows are replaced by those that both know.
    """
    folder = Path(folder)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    for key in ("is_local", "local_files_only"):  # How it was read here is nobody else's business.
        config.pop(key, None)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(
        config.get("extra_special_tokens"), list
    ):  # 4.57 wants a dict; its lists have another name.
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    new = path.with_suffix(".tmp")
    new.write_text(text, "utf-8")
    os.replace(new, path)


def pixels_of(image_processor: Any) -> Pixels:
    """What `image_processor` does after resizing and cropping, as `Pixels`.

    A picture of noise is sent both ways, so that a step that `Pixels` does not know can never be lost. Raises
    `ConfigError` when the two differ, and when the result is not a square of uint8 RGB.
    """
    name = type(image_processor).__name__
    if getattr(image_processor, "backend", None) != "pil":
        raise ConfigError(f"{name} is not a PIL image processor; load it with lit_jax's load_processor")
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    pixels = resized(image_processor, Image.fromarray(noise))
    side = pixels.shape[0]
    if pixels.dtype != np.uint8 or pixels.shape != (side, side, 3):
        raise ConfigError(
            f"{name} turns a 64x48 picture into {pixels.dtype} of shape {pixels.shape}; lit_jax needs uint8 of a "
            "fixed square: set its size to height and width, or do_center_crop with a crop_size"
        )
    scaled, centred = image_processor.do_rescale, image_processor.do_normalize
    found = Pixels(
        size=side,
        mean=_rgb(image_processor.image_mean) if centred else (0.0, 0.0, 0.0),
        std=_rgb(image_processor.image_std) if centred else (1.0, 1.0, 1.0),
        rescale=float(image_processor.rescale_factor) if scaled else 1.0,
    )
    theirs = np.asarray(image_processor(Image.fromarray(noise))["pixel_values"][0]).transpose(1, 2, 0)
    ours = found.normalise(pixels[None])[0]
    if not np.allclose(ours, theirs, rtol=1e-5, atol=1e-5):
        raise ConfigError(
            f"{name} does more to a picture than resize, crop, rescale and normalise; choose another"
        )
    return found


def make_decode(image_processor: Any) -> Callable[..., UInt8[np.ndarray, "S S 3"]]:
    """Returns `decode(bytes) -> uint8 [S, S, 3]`: exactly the image processor without rescale and normalise.

    Before it, `open_image` makes RGB of every kind of picture. Where the image processor resizes by the shorter edge,
    a picture longer than `MAX_RATIO` times its width first loses its ends. `decode` is thread-safe and raises
    `DataError` naming the reason when the bytes are not a picture that it accepts. Its second argument, the key of what
    training draws at random, changes nothing.
    """
    size = pixels_of(image_processor).size

    def decode(data: bytes, key: int = 0) -> UInt8[np.ndarray, "S S 3"]:
        pixels = resized(image_processor, open_image(data))
        assert pixels.shape == (size, size, 3), pixels.shape
        return pixels

    return decode


def make_tokenize(tokenizer: Any, length: int, vocab_size: int | None = None) -> "Tokenize":
    """Returns `tokenize(texts) -> {"input_ids", "attention_mask"[, "token_type_ids"]}`, each int32 [n, length].

    Equals `tokenizer(texts, padding="max_length", truncation=True, max_length=length)`, from a copy of its own, so
    that threads can share it and what `tokenizer.json` says of padding does not matter. Text after the first
    `CHARS_PER_TOKEN * length` characters is not looked at. A text without any token keeps one padding token in
    its mask. Raises `ConfigError` for a tokenizer that is not fast or has no padding token, and for an unusable
    `length`; `tokenize` raises `DataError` for text that is not Unicode, and `ConfigError` for a token outside the
    tower's `vocab_size`, which XLA would take for another one without a word.
    """
    name = type(tokenizer).__name__
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ConfigError(f"{name} has no tokenizer.json behind it; convert it to a fast tokenizer first")
    if tokenizer.pad_token is None:
        raise ConfigError(f"{name} has no padding token; set its pad_token, for instance to its eos_token")
    fast = _fast(tokenizer)
    least = fast.num_special_tokens_to_add(False) + 1
    if not least <= length <= tokenizer.model_max_length:
        raise ConfigError(
            f"text length {length} is outside {least} to {tokenizer.model_max_length} of {name}"
        )
    fast.enable_truncation(length, direction=tokenizer.truncation_side)
    fast.enable_padding(
        length=length,
        direction=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_token=tokenizer.pad_token,
    )
    with_types = "token_type_ids" in tokenizer.model_input_names
    return Tokenize(
        fast, length, with_types, 0 if tokenizer.padding_side == "right" else length - 1, vocab_size
    )


@dataclass(frozen=True)
class Tokenize:
    """What `make_tokenize` returns; threads may share it, and processes receive a copy."""

    fast: Any  # tokenizers.Tokenizer
    length: int
    with_types: bool
    first: int  # The token that stays in the mask of a text without any.
    vocab_size: int | None = None

    def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        try:
            rows = self.fast.encode_batch_fast([text[: CHARS_PER_TOKEN * self.length] for text in texts])
        except TypeError as e:  # The tokenizer's word for a string that UTF-8 cannot hold.
            raise DataError(f"one of {len(texts)} texts is not valid Unicode (a lone surrogate)") from e
        lists = {
            "input_ids": [row.ids for row in rows],
            "attention_mask": [row.attention_mask for row in rows],
        }
        if self.with_types:
            lists["token_type_ids"] = [row.type_ids for row in rows]
        out = {key: np.array(ids, np.int32).reshape(len(rows), self.length) for key, ids in lists.items()}
        largest = out["input_ids"].max(initial=0)
        if self.vocab_size is not None and largest >= self.vocab_size:
            raise ConfigError(
                f"the tokenizer gives token {largest} ({self.fast.id_to_token(int(largest))!r}) and the tower's "
                f"vocabulary has {self.vocab_size}; take the tokenizer that belongs to the tower"
            )
        out["attention_mask"][~out["attention_mask"].any(axis=1), self.first] = (
            1  # Softmax over nothing is NaN.
        )
        return out


def make_count_tokens(tokenizer: Any, length: int) -> "CountTokens":
    """Returns `count(texts)`: the tokens of each text, special ones included, before `make_tokenize` cuts them.

    A text of more than `CHARS_PER_TOKEN * length` characters, of which no more is read, counts `length` + 1 at least.
    """
    fast = _fast(tokenizer)
    fast.no_truncation()
    fast.no_padding()
    return CountTokens(fast, length)


@dataclass(frozen=True)
class CountTokens:
    """What `make_count_tokens` returns; threads may share it, and processes receive a copy."""

    fast: Any  # tokenizers.Tokenizer
    length: int

    def __call__(self, texts: Sequence[str]) -> list[int]:
        limit = CHARS_PER_TOKEN * self.length
        rows = self.fast.encode_batch_fast([text[:limit] for text in texts])
        return [
            max(len(row.ids), self.length + 1) if len(text) > limit else len(row.ids)
            for row, text in zip(rows, texts, strict=True)
        ]


def _fast(tokenizer: Any) -> Any:
    fast = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    fast.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
    return fast


def resized(image_processor: Any, image: Image.Image) -> np.ndarray:
    """[S, S, 3]: the image processor without rescale and normalise.

    Where it resizes by the shorter edge, a picture longer than `MAX_RATIO` times its width first loses its ends.
    """
    if image_processor.do_resize and "shortest_edge" in image_processor.size:
        box = middle(*image.size)
        image = image if box[2:] == image.size else image.crop(box)
    pixels = image_processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))  # C S S -> S S C


def _rgb(values: float | Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = [values] * 3 if isinstance(values, int | float) else values
    return float(red), float(green), float(blue)


def _holding(folder: str | Path, files: Sequence[str], what: str) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(
            f"no folder {folder} to read the {what} from; give a folder in the Hugging Face layout"
        )
    if not any((folder / name).is_file() for name in files):
        raise WeightError(f"{folder} holds no {what}: none of {', '.join(files)}")
    return folder


def _read(auto: Any, folder: Path, what: str, **options: str) -> Any:
    try:
        return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except Exception as e:  # Of every kind, since transformers checks little in the JSON that it reads.
        raise WeightError(f"the {what} in {folder} cannot be read: {first_line(e)}") from e
