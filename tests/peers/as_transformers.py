"""A pytest plugin: what transformers' own tests import as its dual encoder and processor is lit_jax's.

Towers stay PyTorch's. Names that later versions of transformers no longer have (Flax) stand for these towers, so that
the tests of the Flax class run too. Inputs may be tensors of either kind; outputs are of the kind of the inputs.
"""

import dataclasses
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
    """lit_jax's model with what is a matter of PyTorch alone: made of two towers, moved, and set to evaluate."""

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


_processor = lit_jax.VisionTextDualEncoderProcessor
transformers = sys.modules["transformers"]  # The import of a part of it may put another module in its place.
TOWERS = {"ViT": "ViTModel", "Bert": "BertModel", "CLIPVision": "CLIPVisionModel"}
for name, tower in TOWERS.items():
    setattr(transformers, f"Flax{name}Model", getattr(transformers, tower))
transformers.VisionTextDualEncoderModel = transformers.FlaxVisionTextDualEncoderModel = Model
transformers.VisionTextDualEncoderProcessor = _processor
for name in ("require_flax", "is_pt_flax_cross_test"):
    if not hasattr(transformers.testing_utils, name):
        setattr(transformers.testing_utils, name, _plain)
if not hasattr(transformers.utils, "is_flax_available"):
    transformers.utils.is_flax_available = lambda: True
converters = types.ModuleType("transformers.modeling_flax_pytorch_utils")
converters.convert_pytorch_state_dict_to_flax = converters.load_flax_weights_in_pytorch_model = None
sys.modules.setdefault(converters.__name__, converters)
