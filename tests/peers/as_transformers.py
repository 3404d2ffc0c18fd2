"""A pytest plugin that gives transformers' own tests the dual encoder and the processor of lit_jax.

Towers stay PyTorch's. Names that later versions of transformers no longer have (Flax) stand for these towers, so that
the tests of the Flax class run too. Inputs can be tensors of either kind; outputs are of the kind of the inputs.
"""

import builtins
import dataclasses
import os
import sys
import types

import numpy as np
import torch
import transformers.testing_utils
import transformers.utils

import lit_jax


def _arrays(values):
    return {
        name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in values.items()
    }


def _tensors(tree):
    if isinstance(tree, tuple):
        return tuple(map(_tensors, tree))
    return torch.from_numpy(np.array(tree)) if hasattr(tree, "__array__") else tree


class InTorch:
    """Outputs of the model as tensors, by name and by number."""

    def __init__(self, outputs):
        self._outputs = outputs

    def __getattr__(self, name):
        value = getattr(self._outputs, name)
        return InTorch(value) if dataclasses.is_dataclass(value) else _tensors(value)

    def __getitem__(self, key):
        return _tensors(self._outputs[key])


class Model(lit_jax.VisionTextDualEncoderModel):
    """lit_jax's model with what only PyTorch's has: it is made of two towers, moved, and set to evaluate."""

    def __new__(cls, config=None, vision_model=None, text_model=None, **options):
        if vision_model is None:
            return super().__new__(cls)
        return cls.from_vision_text_pretrained(vision_model=vision_model, text_model=text_model)

    def __init__(self, config=None, vision_model=None, text_model=None, **options):
        if vision_model is None:
            super().__init__(config, **options)

    def to(self, device):
        return self

    def eval(self):
        return self

    def __call__(self, *args, **inputs):
        in_torch = any(isinstance(value, torch.Tensor) for value in inputs.values())
        outputs = super().__call__(*args, **_arrays(inputs))
        return InTorch(outputs) if in_torch else outputs


def _plain(test):
    return test


def _missing(name):
    """A stand-in for a name that a package no longer has: an answer, a decorator, or an unused table or class."""
    if name.startswith("is_"):
        return lambda: "flax" in name
    if name[0].islower():
        return _plain
    return {} if name.endswith("_NAMES") or "MAPPING" in name else type(name, (), {})


def _importing(name, globals=None, locals=None, fromlist=(), level=0):
    """An `import` that gives tests every name that they ask of a package, whether this version has it or not."""
    if level or not (globals or {}).get("__name__", "").startswith("tests."):
        return IMPORT(name, globals, locals, fromlist, level)
    try:
        module = IMPORT(name, globals, locals, fromlist, level)
    except ImportError:
        module = types.ModuleType(name)
    for wanted in fromlist or ():
        if not hasattr(module, wanted):
            setattr(module, wanted, _missing(wanted))
    return module


IMPORT, builtins.__import__ = builtins.__import__, _importing
ours = lit_jax.VisionTextDualEncoderProcessor
transformers = sys.modules["transformers"]  # Importing a part of it can put another module in its place.
TOWERS = {"ViT": "ViTModel", "Bert": "BertModel", "CLIPVision": "CLIPVisionModel"}
for name, tower in TOWERS.items():
    setattr(transformers, f"Flax{name}Model", getattr(transformers, tower))
transformers.VisionTextDualEncoderModel = transformers.FlaxVisionTextDualEncoderModel = Model
# The processor of transformers itself is tried too, since tests of another version ask for what it no longer does.
itself = os.environ.get("LIT_JAX_PROCESSOR") == "transformers"
processor = transformers.VisionTextDualEncoderProcessor if itself else ours
# As transformers 4 names them.
parts = {
    "attributes": ("image_processor", "tokenizer"),
    "image_processor_class": "ViTImageProcessor",
    "tokenizer_class": "BertTokenizer",
}
transformers.VisionTextDualEncoderProcessor = type(processor.__name__, (processor,), parts)
# Tests look into the checkout's own source for names; the installed package is what is tested.
transformers.utils.direct_transformers_import = lambda *args, **options: transformers
