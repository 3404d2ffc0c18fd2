"""What else people give as a model folder, and how to get from there to one that is read."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from lit_jax.utils.other_formats import ARCHIVE, Other, other_of

# The most entries of a folder that are looked at, so that "/" is answered as fast as any other.
_MOST_ENTRIES = 2_000
_DEPTH = 2
_MADE_FROM = "give the model that it was made from, as save_pretrained of transformers writes it"
OTHERS = (
    Other(r".*\.gguf", "a file of llama.cpp", _MADE_FROM),
    Other(r".*\.onnx", "a program of ONNX", _MADE_FROM),
    Other(r"openvino_\w+\.(xml|bin)", "a program of OpenVINO", _MADE_FROM),
    Other(r".*\.(h5|keras|tflite)|saved_model\.pb", "a model of TensorFlow or Keras", _MADE_FROM),
    Other(r".*\.(mlpackage|mlmodel|mlmodelc)", "a program of Core ML", _MADE_FROM),
    Other(r".*\.(engine|plan)", "a program of TensorRT", _MADE_FROM),
    Other(r"weights(\.\d+)?\.npz", "a file of MLX", _MADE_FROM),
    Other(
        r".*\.distcp",
        "a distributed checkpoint of PyTorch",
        "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER pytorch_model.bin` writes it into "
        "one file",
    ),
    Other(
        r"mp_rank_\d+_model_states\.pt|(bf16_)?zero_pp_rank_\d+_\w+\.pt",
        "a checkpoint of DeepSpeed",
        "the zero_to_fp32.py that DeepSpeed put beside it writes it into one file",
    ),
    Other(
        r"(model-\d+-of-\d+\.safetensors|pytorch_model-\d+-of-\d+\.bin)",
        "shards of weights without their index",
        "copy the file that ends in .index.json beside them",
    ),
    ARCHIVE,
)


def hint(folder: Path) -> str:
    """What a folder without a config or without weights holds instead; "" if nothing is known about it."""
    for path in _inside(folder):
        if found := other_of(path.name, OTHERS):
            way = found.way.replace("FOLDER", str(path.parent))
            return f"it holds {found.what} ({path.relative_to(folder)}): {way}"
    return ""


def hint_of_names(names: Iterable[str]) -> str:
    """What these files of a repository are; "" if none of them is known."""
    for name in names:
        for part in name.split("/"):
            if found := other_of(part, OTHERS):
                return f"it holds {found.what} ({name}): {found.way}"
    return ""


def hint_of_file(path: Path) -> str:
    """What a file is that was given as a model; "" if nothing is known about it."""
    found = other_of(path.name, OTHERS)
    return "" if found is None else f"{found.what} and no model folder: {found.way}"


def instead(folder: Path, wanted: str) -> str:
    """What a folder without a file `wanted` is: one whose subfolders have it, one of another format, or no model's."""
    if models := _with_file(folder, wanted):
        some = ", ".join(map(str, models[-3:]))
        return (
            f"{some} has one: give that folder" if len(models) == 1 else f"give one that has, such as {some}"
        )
    return hint(folder) or "it is not a Hugging Face model folder"


def _with_file(folder: Path, name: str) -> list[Path]:
    """The folders within `folder` that hold a file of this name, those with the highest numbers last."""
    found = [path.parent for path in _inside(folder) if path.name == name and path.parent != folder]
    return sorted(
        found, key=lambda path: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", str(path))]
    )


def _inside(folder: Path) -> Iterator[Path]:
    """The entries of a folder and of its subfolders."""
    return islice(_walked(folder, _DEPTH), _MOST_ENTRIES)


def _walked(folder: Path, depth: int) -> Iterator[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError:  # Perhaps it is somebody else's.
        return
    yield from paths
    for path in paths:
        if depth and path.is_dir() and not path.is_symlink():
            yield from _walked(path, depth - 1)
