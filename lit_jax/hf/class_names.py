"""Checks the class names in a model folder: transformers would call `from_pretrained` of any class that they name."""

import re
from typing import Any

from lit_jax.utils._transformers import transformers

_IDENTIFIER = re.compile(r"[A-Za-z]\w{0,99}", re.ASCII)
_IMAGE_PROCESSOR = re.compile(r"(?!Auto)[A-Z]\w{0,80}(ImageProcessor(Fast|Pil)?|FeatureExtractor)", re.ASCII)
# Tokenizers of supported types that have no fast form.
SLOW = tuple(
    f"{name}Tokenizer"
    for name in ("BertGeneration", "Bertweet", "ByT5", "Esm", "M2M100", "Phobert", "Siglip")
)


def is_tokenizer(name: Any) -> bool:
    """Whether transformers has a tokenizer of that name with a fast form or in SLOW, or no class of that name.

    Some of the other classes start programs or read files anywhere.
    """
    if not isinstance(name, str):
        return name is None
    if not _IDENTIFIER.fullmatch(name):
        return False
    known = [
        found for word in (name, f"{name}Fast") if (found := getattr(transformers, word, None)) is not None
    ]
    fast = transformers.PreTrainedTokenizerFast
    return (
        not known
        or name in SLOW
        or any(isinstance(found, type) and issubclass(found, fast) for found in known)
    )


def is_image_processor(name: Any) -> bool:
    """Whether a name looks like that of an image processor; transformers gives no other class such a name."""
    return name is None or (isinstance(name, str) and bool(_IMAGE_PROCESSOR.fullmatch(name)))
