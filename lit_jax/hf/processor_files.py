"""The image processor and the tokenizer of a Hugging Face folder: downloads nothing, runs no code from the folder."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lit_jax.data.transforms.tokenizer import panics_raised
from lit_jax.hf import image_processor_rules, image_processors, model_folder, tokenizer_rules
from lit_jax.models.composites import OWN_MODEL_TYPE
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError, first_line
from lit_jax.utils.typing import ImageProcessor, Tokenizer

_LONGEST = 600  # The most characters of a reason: transformers lists all the types that it knows.


def image_processor(folder: str | Path) -> ImageProcessor:
    """The image processor that a folder names. Raises ConfigError and WeightError."""
    folder = _holding(folder, image_processor_rules.FILES, "image processor")
    return _read(image_processors.load_pil, folder, "image processor", image_processor_rules.check)


def tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a folder. Raises ConfigError and WeightError."""
    folder = _holding(folder, tokenizer_rules.FILES, "tokenizer")
    read = transformers.AutoTokenizer.from_pretrained
    config = folder / model_folder.CONFIG
    if config.is_file() and model_folder.read_json(config).get("model_type") == OWN_MODEL_TYPE:
        # Otherwise it warns about a type that it does not know.
        read = partial(read, config=transformers.PreTrainedConfig())
    return _read(read, folder, "tokenizer", tokenizer_rules.check)


def _holding(folder: str | Path, files: Sequence[str], what: str) -> Path:
    """`folder`, if it has one of `files`. Raises ConfigError and WeightError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder {folder} to read the {what} from; give a folder in the Hugging Face layout"
        )
    if not any((folder / name).is_file() for name in files):
        raise WeightError(f"{folder} holds no {what}: none of {', '.join(files)}")
    return folder


def _read(read: Callable[..., Any], folder: Path, what: str, check: Callable[[Path], None]) -> Any:
    try:
        check(folder)
        with panics_raised(WeightError):
            return read(folder, local_files_only=True, trust_remote_code=False)
    except Exception as e:  # Any kind: transformers hardly checks the JSON that it reads.
        raise WeightError(f"the {what} in {folder} cannot be read: {first_line(e)[:_LONGEST]}") from e
