"""The towers of a model as programs that other runtimes run: ONNX and StableHLO."""

import importlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax

from lit_jax.data.transforms.image_processor import size_of
from lit_jax.data.transforms.tokenizer import makes_mask
from lit_jax.hf.programs import onnx_files, stablehlo, towers
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.typing import Params, Processor

_ONNX = ("onnx", "onnxruntime"), "pip install 'lit_jax[onnx]'"
# Form -> the packages that write it, and how to get them.
FORMS = {
    "onnx": _ONNX,
    "onnx_int8": _ONNX,
    "stablehlo": (("flatbuffers",), "pip install 'lit_jax[stablehlo]'"),
}


def check(forms: Collection[str]) -> None:
    """Raises ConfigError for a form that is not one of FORMS, and if a package that writes it is not installed."""
    if isinstance(forms, str) or not set(forms) <= FORMS.keys():
        raise ConfigError(f"the forms are {forms!r}; wanted some of {', '.join(FORMS)}")
    for form in forms:
        packages, remedy = FORMS[form]
        for package in packages:
            try:
                importlib.import_module(package)
            except ImportError:
                raise ConfigError(
                    f"{form} is written with {package}, which is not installed; {remedy}"
                ) from None


def write(
    folder: Path, module: DualEncoder, params: Params, processor: Processor, forms: Collection[str]
) -> None:
    """Writes both towers with their heads into `folder`, as files that hold their weights and do not need lit_jax.

    "onnx" writes onnx/vision_model.onnx and onnx/text_model.onnx; "onnx_int8" writes these and *_quantized.onnx;
    "stablehlo" writes stablehlo/vision_model.stablehlo, text_model.stablehlo and programs.json. Raises ConfigError as
    `check` does, and WeightError for a tower that has no such form.
    """
    check(forms)
    with_mask, size = makes_mask(processor.tokenizer), size_of(processor.image_processor)

    def made(compute: Any) -> tuple[towers.Program, towers.Program]:
        return towers.programs(module, params, with_mask=with_mask, compute=compute, size=size)

    if "onnx" in forms or "onnx_int8" in forms:
        onnx_files.write(folder, made(onnx_files.COMPUTE), int8="onnx_int8" in forms)
    if "stablehlo" in forms:
        stablehlo.write(folder, made(stablehlo.compute_on(jax.devices()[0].platform)))
