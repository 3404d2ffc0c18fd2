"""Models of other projects, read as models of transformers: one file for each layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_jax.hf import model_folder
from lit_jax.hf.conversions import (
    bit_npz,
    lit_npz,
    open_clip,
    peft,
    sentence_transformers,
    siglip_npz,
    timm,
    vit_npz,
)
from lit_jax.hf.conversions.base import Format, Model
from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils.errors import LitJaxError, WeightError, first_line
from lit_jax.utils.typing import ImageProcessor, Tokenizer

FORMATS = (
    *(sentence_transformers.FORMAT, peft.FORMAT, open_clip.FORMAT, timm.FORMAT),
    *(lit_npz.FORMAT, siglip_npz.FORMAT, vit_npz.FORMAT, bit_npz.FORMAT),
)


def format_of(path: Path) -> Format | None:
    """Which of FORMATS a folder or file is in; None for a model of transformers and for anything else.

    Raises WeightError for a damaged file, and for an npz file of any other project.
    """
    # Its first module may be a model of transformers in the same place.
    if sentence_transformers.FORMAT.is_it(path):
        return sentence_transformers.FORMAT
    config = path / model_folder.CONFIG
    stored = model_folder.read_json(config) if config.is_file() else {}
    if stored.get("model_type", timm.WRAPPER) != timm.WRAPPER and model_folder.has_weights(path):
        return None
    found = next((form for form in FORMATS if form.is_it(path)), None)
    if found is None and path.suffix == ".npz" and path.is_file():
        raise WeightError(
            f"{path} holds the arrays of no LiT, SigLIP, BiT or ViT with a CLS token; no other npz files are read"
        )
    return found


def read(path: Path, allow_pickle: bool) -> Model | None:
    """The model in a folder or file of one of FORMATS, else None. Raises WeightError."""
    form = format_of(path)
    return form and _judged(form, path, form.read, allow_pickle)


def image_processor(path: Path) -> ImageProcessor | None:
    """The image processor that belongs to such a model, else None. Raises WeightError."""
    form = format_of(path)
    return form and _judged(form, path, form.image_processor)


def tokenizer(path: Path) -> Tokenizer | None:
    """The tokenizer that belongs to such a model, else None. Raises WeightError."""
    form = format_of(path)
    return form and _judged(form, path, form.tokenizer)


def _judged(form: Format, path: Path, part: Callable[..., Any], *more: Any) -> Any:
    try:
        return part(path, *more)
    except LitJaxError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        reason = shown(first_line(error))
        raise WeightError(f"{path} is {form.what} whose config is not usable: {reason}") from error
