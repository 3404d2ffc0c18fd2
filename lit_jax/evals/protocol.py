"""What a number was measured with, and a hash of it: numbers under different protocols say nothing about each other."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Protocol = Mapping[str, Any]  # Of JSON's types.

TIES = "lower index first"


def preprocessing(image_processor: Any) -> dict[str, Any]:
    """The numbers of an image processor, without names of classes and files, which change nothing."""
    found = json.loads(json.dumps(image_processor.to_dict(), default=str))
    return {
        name: value
        for name, value in sorted(found.items())
        if value is not None
        and not name.startswith("_")
        and name not in ("image_processor_type", "processor_class")
    }


def fingerprint(protocol: Protocol) -> str:
    """16 hexadecimal digits of the sha256 of `protocol`, in whatever order its names stand."""
    text = json.dumps(protocol, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(first: Any, second: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """(name, value in `first`, value in `second`) of all that differs; names of nested values are joined by dots."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        names = sorted({*first, *second})
        return [
            row
            for key in names
            for row in differences(first.get(key), second.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if first == second else [(name, first, second)]
