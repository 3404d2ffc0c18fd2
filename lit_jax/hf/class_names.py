"""Classes that a model folder names: transformers would call `from_pretrained` of anything of its own by that name."""

import re
from typing import Any

from lit_jax.utils._transformers import transformers

_IDENTIFIER = re.compile(r"[A-Za-z]\w{0,99}", re.ASCII)
_IMAGE_PROCESSOR = re.compile(r"(?!Auto)[A-Z]\w{0,80}(ImageProcessor(Fast|Pil)?|FeatureExtractor)", re.ASCII)
# Those of supported types without a fast form.
SLOW = ("BertweetTokenizer", "ByT5Tokenizer", "EsmTokenizer", "PhobertTokenizer", "SiglipTokenizer")


def is_tokenizer(name: Any) -> bool:
    """Whether a name is of one of transformers' tokenizers that have a fast form, or of no class that it has.

    Some of the others start programs or read files anywhere.
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
    """Whether a name is formed like that of an image processor; transformers gives such names to nothing else."""
    return name is None or (isinstance(name, str) and bool(_IMAGE_PROCESSOR.fullmatch(name)))
