"""The protocol under which numbers were measured, and a hash of it; only numbers of one protocol can be compared."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lit_jax.utils.typing import ImageProcessor

Protocol = Mapping[str, Any]  # The values are JSON types.

TIES = "lower index first"
OF_THE_MODEL = ("image_processor", "text_length", "dim")  # Parts of a protocol that a model brings with it.
# As Pillow numbers them.
_FILTERS = {0: "nearest", 1: "Lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "Hamming"}


def preprocessing(image_processor: ImageProcessor) -> dict[str, Any]:
    """The fields of an image processor that change pixels, without the names of classes and files."""
    fields = json.loads(json.dumps(image_processor.to_dict(), default=str))
    return {
        name: value
        for name, value in sorted(fields.items())
        if value is not None
        and not name.startswith("_")
        and name not in ("image_processor_type", "processor_class")
    }


def in_words(
    protocol: Protocol, *, data: str, templates: str | None = None, train: str | None = None
) -> dict[str, str]:
    """What each part of `protocol` means, in words, under the same names; some parts are described together.

    `data` and `train` are the sources and `templates` the prompt set as the user named them. A fingerprint does not
    depend on these names: the same content has the same fingerprint wherever it is stored.
    """
    words = {name: str(value) for name, value in protocol.items() if name not in ("images", "texts")}
    words["data"] = f"{data}, {protocol['images']} pictures (sha256 {protocol['data'][:8]})"
    if "texts" in protocol:
        texts = protocol["texts"]
        words["texts"] = f"{texts if isinstance(texts, int) else len(texts)} captions"
    words["image_processor"] = pixels_in_words(protocol["image_processor"])
    if "text_length" in protocol:
        words["text_length"] = f"at most {protocol['text_length']} tokens"
    if "dim" in protocol:
        words["dim"] = f"the first {protocol['dim']} numbers of each embedding"
    if "templates" in protocol:
        first, *others = protocol["templates"]
        words["templates"] = f"{templates}: {first!r}" + (f" and {len(others)} more" if others else "")
        words["canonical"] = (
            "prompts in lower case without punctuation" if protocol["canonical"] else "prompts as they are"
        )
    if isinstance(names := protocol.get("classes"), list):
        words["classes"] = f"{len(names)}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
    if isinstance(languages := protocol.get("captions"), Mapping):
        words["captions"] = ", ".join(f"{name} (sha256 {digest[:8]})" for name, digest in languages.items())
    if "train" in protocol:
        words["train"] = f"{train} (sha256 {protocol['train'][:8]})"
    return words


def pixels_in_words(fields: Protocol) -> str:
    """What `preprocessing` returns, in words, in the order in which it is done."""
    steps = []
    if fields.get("do_resize"):
        filter = _FILTERS.get(fields.get("resample", 2), "unknown")
        steps.append(f"resized to {_size(fields)}, {filter}")
    if fields.get("do_center_crop"):
        steps.append(f"cut in the middle to {_sides(fields['crop_size'])}")
    if fields.get("do_rescale"):
        steps.append(f"times {fields['rescale_factor']:.6g}")
    if fields.get("do_normalize"):
        steps.append(f"mean {_numbers(fields['image_mean'])}, std {_numbers(fields['image_std'])}")
    return "; ".join(steps) or "as they are"


def protocol_fingerprint(protocol: Protocol) -> str:
    """The fingerprint of what a model was asked: `protocol` without the parts that the model brings with it."""
    return fingerprint({name: value for name, value in protocol.items() if name not in OF_THE_MODEL})


def fingerprint(protocol: Protocol) -> str:
    """16 hexadecimal digits of the sha256 of `protocol`, whatever the order of its names."""
    text = json.dumps(protocol, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(first: Any, second: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """(name, value in `first`, value in `second`) of each difference; names of nested values are joined by dots."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        names = sorted({*first, *second})
        return [
            row
            for key in names
            for row in differences(first.get(key), second.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if first == second else [(name, first, second)]


def _size(fields: Protocol) -> str:
    if "max_num_patches" in fields:
        return (
            f"at most {fields['max_num_patches']} patches of {fields['patch_size']} pixels in their own shape"
        )
    return _sides(fields["size"])


def _sides(size: Mapping[str, int]) -> str:
    if "shortest_edge" in size:
        return f"a shortest side of {size['shortest_edge']}"
    return " x ".join(str(size[side]) for side in ("height", "width") if side in size) or str(size)


def _numbers(values: Any) -> str:
    return " ".join(f"{value:.4g}" for value in (values if isinstance(values, list) else [values]))
