"""Processors: the image processor and the tokenizer of a Hugging Face folder, read and written without torch."""

import json
from collections import ChainMap
from functools import cache
from pathlib import Path
from typing import Any, Unpack

import jax.numpy as jnp

from lit_jax.data.transforms.tokenizer import prompt_of, set_prompt
from lit_jax.hf import conversions, folder_sums, image_processors, processor_files
from lit_jax.hf.pixel_checks import checked_images
from lit_jax.utils import atomic
from lit_jax.utils._transformers import transformers
from lit_jax.utils.sides import Sides
from lit_jax.utils.typing import ImageProcessor, Processor, Tokenizer


def __getattr__(name: str) -> Any:  # For lit_jax.VisionTextDualEncoderProcessor, made on first use.
    if name != "VisionTextDualEncoderProcessor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return processor_class()


@cache
def processor_class() -> Any:
    """transformers' VisionTextDualEncoderProcessor, which here also accepts `return_tensors="jax"`.

    The class is made on first use, since the import of its parent takes seconds.
    """

    class VisionTextDualEncoderProcessor(transformers.VisionTextDualEncoderProcessor):
        """An image processor and a tokenizer in one, as in transformers; it can also return JAX arrays."""

        def __init__(self, image_processor: Any = None, tokenizer: Any = None, **options: Any) -> None:
            super().__init__(image_processor, tokenizer, **options)

        def __reduce__(self) -> tuple[Any, ...]:  # pickle could not find the class itself.
            return _joined, (self.image_processor, self.tokenizer)

        def __call__(
            self, images: Any = None, text: Any = None, **options: Unpack[transformers.ProcessingKwargs]
        ) -> Any:
            """As in transformers, but `return_tensors` may also be "jax", and Pillow images may have any mode.

            The prompt of the tokenizer is put before every text.
            """
            if text is not None and (prompt := prompt_of(self.tokenizer)):
                text = prompt + text if isinstance(text, str) else [prompt + one for one in text]
            given: dict[str, Any] = dict(options)
            common = given.get("common_kwargs") or {}
            settings = ChainMap(given, given.get("images_kwargs") or {}, common)
            rescales = settings.get("do_rescale", getattr(self.image_processor, "do_rescale", False))
            in_jax = settings.get("return_tensors") == "jax"
            if in_jax:
                given |= {"return_tensors": "np", "common_kwargs": {**common, "return_tensors": "np"}}
            images = checked_images(images, rescales=bool(rescales))
            batch = super().__call__(images, text, **given)
            if in_jax:
                batch.data = {name: jnp.asarray(value) for name, value in batch.data.items()}
            return batch

        @classmethod
        def _get_arguments_from_pretrained(
            cls, pretrained_model_name_or_path: Any, processor_dict: Any = None, **options: Any
        ) -> list[Any]:
            """As in transformers, with our image processor where its own needs torchvision."""
            where = pretrained_model_name_or_path
            tokenizer = cls._load_tokenizer_from_pretrained("tokenizer", where, **options)
            return [image_processors.load(where, **options), tokenizer]

    return VisionTextDualEncoderProcessor


def _joined(image_processor: Any, tokenizer: Any) -> Any:
    return processor_class()(image_processor, tokenizer)


def load_processor(folder: str | Path, *, image_size: Sides | None = None) -> Processor:
    """The processor of a folder on disk, in the layout of transformers 5 or of 4, or in one that is converted.

    From a Hugging Face folder it reads `processor_config.json` or `preprocessor_config.json`, and the tokenizer files.
    It downloads nothing and runs no code from the folder. With `image_size` pictures come out with that side in pixels,
    or that height and width. Raises ConfigError if there is no such folder, and WeightError if it has no usable image
    processor or tokenizer.
    """
    return join_processors(folder, folder, image_size=image_size)


def join_processors(
    vision_folder: str | Path,
    text_folder: str | Path,
    *,
    text_prompt: str = "",
    image_size: Sides | None = None,
) -> Processor:
    """A processor made from the image processor of one folder and the tokenizer of another: see `load_processor`.

    `text_prompt` is put before every text; empty: what the tokenizer's folder says, if anything.
    """
    for folder in (vision_folder, text_folder):
        folder_sums.check(Path(folder))
    images, tokenizer = load_image_processor(vision_folder), load_tokenizer(text_folder)
    if image_size is not None:
        image_processors.set_image_size(images, image_size)
    if text_prompt:
        set_prompt(tokenizer, text_prompt)
    return processor_class()(images, tokenizer)


def load_image_processor(folder: str | Path) -> ImageProcessor:
    """The image processor of a folder: see `load_processor`."""
    return conversions.image_processor(Path(folder)) or processor_files.image_processor(folder)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a folder: see `load_processor`."""
    converted = conversions.tokenizer(Path(folder))
    return processor_files.tokenizer(folder) if converted is None else converted


def save_processor(folder: str | Path, processor: Processor) -> None:
    """Writes `processor` in a layout that transformers 5 and 4.57 both read.

    5 reads `processor_config.json`, 4.57 `preprocessor_config.json`; both read the tokenizer files.
    """
    folder = Path(folder)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    save_tokenizer(folder, processor.tokenizer)


def save_tokenizer(folder: Path, tokenizer: Tokenizer, *, alone: bool = False) -> None:
    """Writes the files of a tokenizer, with the spellings that transformers 5 and 4.57 both know.

    `alone` means that there is no image processor beside it. Then its files must not name a joint processor, which
    AutoProcessor, and so sentence-transformers, would look for there.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    for key in ("is_local", "local_files_only"):  # How it was read on this machine.
        config.pop(key, None)
    if alone:
        config.pop("processor_class", None)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    # In 4.57 this field is a dict, and a list has another name.
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    atomic.put(path, lambda draft: draft.write_text(text, "utf-8"))
