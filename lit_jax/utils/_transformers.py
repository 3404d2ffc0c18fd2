"""The one door to `transformers`: imports it without its advice to install torch, which lit_jax does not need.

With LIT_JAX_TORCH=0 in the environment transformers takes torch for not installed, whose import would take it seconds;
commands that have no use for it set that (see `__main__`).
"""

import os
import sys
from typing import Any

# Read at every (repeated) import of parts of it; whoever wants the advice sets the variable to the empty string.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

if os.environ.get("LIT_JAX_TORCH") == "0" and not {"torch", "transformers"} & sys.modules.keys():
    modules: dict[str, Any] = sys.modules
    modules["torch"] = None  # Not to be found, while transformers looks; it remembers the answer.
    try:
        import transformers

        transformers.utils.is_torch_available()
    finally:
        del modules["torch"]
else:
    import transformers

__all__ = ["auto_image_processor", "transformers"]


def auto_image_processor() -> Any:
    """The class AutoImageProcessor: up to 5.17 the name in `transformers` asks for torchvision, the class does not."""
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    return AutoImageProcessor
