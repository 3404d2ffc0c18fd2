"""What a folder is: the one table by which models are recognised, and the messages for all other folders."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lit_jax.hf import conversions, model_folder
from lit_jax.models.composites import COMPOSITES, OWN_MODEL_TYPE, is_composite
from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.weight_map import listed
from lit_jax.utils.errors import WeightError
from lit_jax.utils.run_folder import run_of

log = logging.getLogger(__name__)


class Kind(NamedTuple):
    """A kind of folder that is not a model of transformers, and the way from there (FOLDER) to one."""

    what: str
    is_it: Callable[[Path], bool]
    way: str


def _has(*names: str) -> Callable[[Path], bool]:
    return lambda folder: all((folder / name).is_file() for name in names)


KINDS = (
    Kind(
        "a run",
        lambda folder: run_of(folder) is not None,
        "its model is written by `lit-jax export --workdir FOLDER --output DIR`",
    ),
    Kind(
        "a model in the layout 'towers'",
        _has("vision/config.json", "text/config.json", "heads/config.json"),
        "its towers are joined again by lit_jax.from_towers('FOLDER/vision', 'FOLDER/text')",
    ),
    Kind("a pipeline of diffusers", _has("model_index.json"), "give the folder of one of its models"),
)


_PROJECTS = {  # Names of tensors -> what a folder of them needs; the first that fits counts.
    r"(^|\.)visual\.": "and its weights are those of a model of open_clip: name them open_clip_model.safetensors or "
    "open_clip_pytorch_model.bin, and write what open_clip.get_model_config(NAME) gives to open_clip_config.json",
    r"(^|\.)blocks\.\d+\.proj\.weight$": "and its weights are those of a Hiera as timm names them: write one that says "
    'which, for instance {"architecture": "hiera_base_224"}',
    r"(^|\.)blocks\.\d+\.(\d+\.)?attn\.qkv\.": "and its weights are those of a ViT as timm names them: write one that "
    'says which, for instance {"architecture": "vit_base_patch16_224"}',
    r"(^|\.)stages\.\d+\.blocks\.\d+\.conv_dw\.": "and its weights are those of a ConvNeXt as timm names them: write "
    'one that says which, for instance {"architecture": "convnext_base"}',
    r"(^|\.)stages\.0\.blocks\.0\.downsample\.conv\.weight$": "and its weights are those of a BiT as timm names them: "
    'write one that says which, for instance {"architecture": "resnetv2_50x1_bit"}',
    r"(^|\.)layer1\.0\.conv1\.weight$": "and its weights are those of a ResNet as timm and torchvision name them: "
    'write one that says which, for instance {"architecture": "resnet50"}',
}


def read_config(folder: Path, *, allow_pickle: bool = False) -> dict[str, Any]:
    """The config.json of a model of transformers, which has a model_type, or that of a converted layout.

    Raises WeightError for any other folder.
    """
    config: dict[str, Any] = {}
    if (converted := conversions.read(folder, allow_pickle)) is not None:
        return converted.config
    if (folder / model_folder.CONFIG).is_file():
        config = model_folder.read_config(folder)
        if "model_type" in config and (model_folder.has_weights(folder) or run_of(folder) is None):
            return config
    for kind in KINDS:
        if kind.is_it(folder):
            place = run_of(folder) or folder
            way = kind.way.replace("FOLDER", str(place))
            raise WeightError(
                f"{folder} is {kind.what} and not a model of transformers" + (f": {way}" if way else "")
            )
    if config:
        raise WeightError(
            f"{folder / model_folder.CONFIG} has no model_type; if it is a model of transformers, add the one that it "
            'is of (lit-jax encoders lists them), for instance "model_type": "bert"'
        )
    if model_folder.may_have_weights(folder):
        raise WeightError(f"{folder} has no {model_folder.CONFIG}, {_remedy(folder, allow_pickle)}")
    return model_folder.read_config(folder)  # This raises, since there is none.


def _remedy(folder: Path, allow_pickle: bool) -> str:
    """What a folder of weights without a config needs, as far as the names of its tensors tell."""
    try:
        names = "\n".join(model_folder.Tensors.of(folder, allow_pickle=allow_pickle))
    except WeightError:
        names = ""
    found = (remedy for pattern, remedy in _PROJECTS.items() if re.search(pattern, names, re.MULTILINE))
    return next(found, "which says what its weights are: copy that of the model that they were trained from")


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Adds to a WeightError about the tensors of `folder` where they are, and whether they are quantized."""
    try:
        yield
    except WeightError as error:
        message = str(error) if str(folder) in str(error) else f"{folder}: {error}"
        if method := _quantization(folder):
            message += f"; quantized weights ({method}) are not read: give the model before quantization"
        raise WeightError(message) from error


def _quantization(folder: Path) -> str:
    """How the weights of a folder are quantized, which transformers writes into the config; "" for all others."""
    try:
        quantized = model_folder.read_config(folder).get("quantization_config")
    except WeightError:
        return ""
    return shown(quantized.get("quant_method")) if isinstance(quantized, dict) else ""


def own_pooling(tower: str, folder: Path, config: Mapping[str, Any]) -> str:
    """How a folder with this config pools a tower; "pooler" for what its type does, as in transformers."""
    ours = config["model_type"] == OWN_MODEL_TYPE or conversions.format_of(folder) is not None
    return str(config.get(f"{tower}_pooling", "pooler")) if ours else "pooler"


def tensors_of(folder: Path, *, allow_pickle: bool) -> model_folder.Tensors:
    """The tensors of a model of transformers; if it wraps a dual encoder for another task, only the dual encoder's.

    Tensors of a converted layout have their names in transformers.
    """
    if (converted := conversions.read(folder, allow_pickle)) is not None:
        config, tensors = converted
    else:
        config = read_config(folder)
        with explained(folder):
            tensors = model_folder.Tensors.of(folder, allow_pickle=allow_pickle)
    model_type = config["model_type"]
    prefix = COMPOSITES[model_type].prefix if is_composite(model_type) else ""
    inner = {name: name.removeprefix(prefix) for name in tensors if prefix and name.startswith(prefix)}
    if not inner:
        return tensors
    log.info("Left out, since they are not part of the dual encoder: %s", listed(set(tensors) - inner.keys()))
    return tensors.renamed(inner)
