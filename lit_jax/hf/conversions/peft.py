"""An adapter of peft, read as the model of transformers that it belongs to."""

from pathlib import Path

from lit_jax.hf import image_processor_rules, peft_adapters, processor_files, tokenizer_rules
from lit_jax.hf.conversions.base import Format, Model
from lit_jax.utils.typing import ImageProcessor, Tokenizer


def _read(folder: Path, allow_pickle: bool) -> Model:
    base = peft_adapters.base_of(folder, allow_pickle=allow_pickle)
    tensors = peft_adapters.merged(folder, base, allow_pickle=allow_pickle)
    return Model(peft_adapters.config_of(folder, base), tensors)


def _image_processor(folder: Path) -> ImageProcessor:
    return processor_files.image_processor(_holding(folder, image_processor_rules.FILES))


def _tokenizer(folder: Path) -> Tokenizer:
    return processor_files.tokenizer(_holding(folder, tokenizer_rules.FILES))


def _holding(folder: Path, files: tuple[str, ...]) -> Path:
    """The folder of the adapter if it has one of `files`, else that of its model."""
    if any((folder / name).is_file() for name in files):
        return folder
    return peft_adapters.base_of(folder, weights=False)


FORMAT = Format("an adapter of peft", peft_adapters.is_adapter, _read, _image_processor, _tokenizer)
