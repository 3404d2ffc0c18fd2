"""lit_jax: dual encoders in pure JAX, from any pretrained vision and text encoder."""

import importlib
import logging

from lit_jax.utils.shown import LastResort

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(LastResort())

# Public name -> the module that defines it, which is loaded at first use, so that importing lit_jax stays fast.
_PUBLIC = {
    "DualEncoder": "models.dual_encoder",
    "DualEncoderConfig": "models.dual_encoder",
    "load": "hf.load",
    "from_towers": "hf.join",
    "save": "hf.save",
    "VisionTextDualEncoderConfig": "hf.facade.model",
    "VisionTextDualEncoderModel": "hf.facade.model",
    "FlaxVisionTextDualEncoderModel": "hf.facade.model",
    "VisionTextDualEncoderProcessor": "hf.processor",
    "Embedder": "inference.embedder",
    "classify": "inference.classify",
    "embed": "inference.write_index",
    "search": "inference.search",
    "publish": "hf.publish",
    "LitJaxError": "utils.errors",
    "ConfigError": "utils.errors",
    "DataError": "utils.errors",
    "WeightError": "utils.errors",
    "CheckpointError": "utils.errors",
    "NonFiniteError": "utils.errors",
    "PreemptedError": "utils.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
