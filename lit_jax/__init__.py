"""lit_jax: dual encoders in pure JAX, from any pretrained vision and text encoder."""

import importlib

__version__ = "0.1.0"

# Public name -> the module that defines it; loaded when first asked for, so that the import stays quick.
_PUBLIC = {
    "DualEncoder": "dual_encoder",
    "DualEncoderConfig": "dual_encoder",
    "load": "pretrained",
    "from_towers": "pretrained",
    "save": "saving",
    "VisionTextDualEncoderConfig": "model",
    "VisionTextDualEncoderModel": "model",
    "FlaxVisionTextDualEncoderModel": "model",
    "VisionTextDualEncoderProcessor": "processing",
    "Embedder": "embedder",
    "classify": "ask",
    "embed": "index",
    "search": "ask",
    "publish": "publishing",
    "LitJaxError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "WeightError": "errors",
    "CheckpointError": "errors",
    "NonFiniteError": "errors",
    "PreemptedError": "errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
