"""The only module that imports `transformers`, without its advice to install torch, which lit_jax does not need.

With LIT_JAX_TORCH=0 in the environment, transformers behaves as if torch were not installed, which saves the seconds
that its import takes. Commands that do not need torch set this variable (see `__main__`).
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lit_jax.utils.shown import Formatter

# transformers reads this at every import of one of its parts. To see the advice, set it to the empty string.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

if os.environ.get("LIT_JAX_TORCH") == "0" and not {"torch", "transformers"} & sys.modules.keys():
    modules: dict[str, Any] = sys.modules
    modules["torch"] = None  # Hides torch while transformers looks for it; transformers caches the result.
    try:
        import transformers

        transformers.utils.is_torch_available()
    finally:
        del modules["torch"]
else:
    import transformers

for _handler in logging.getLogger("transformers").handlers:  # transformers has handlers of its own.
    _handler.setFormatter(Formatter())

__all__ = ["auto_image_processor", "auto_model_types", "transformers", "without_bars"]


@contextmanager
def without_bars() -> Iterator[None]:
    """A context in which transformers shows no progress bars."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


def auto_image_processor() -> Any:
    """The class AutoImageProcessor, without torchvision, which `transformers.AutoImageProcessor` needs up to 5.17."""
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    return AutoImageProcessor


def auto_model_types() -> list[str]:
    """The model types that AutoModel of the installed version knows."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return list(MODEL_MAPPING_NAMES)
