"""The columns of parquet files: which hold the pictures, the captions, the ids and the labels, in every file alike."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lit_jax.data.sources.base import CAPTIONS, IDS, numbered_captions, texts_of
from lit_jax.data.sources.split_names import SplitColumn
from lit_jax.utils import strict_json
from lit_jax.utils.errors import DataError

_IMAGES = ("image", "img", "picture", "jpg", "png", "webp", "avif", "pixel_values")
_TEXTS = ("text", "raw", "caption", "captions", "sentence", "sentences")  # Fields of a struct.
_NO_PICTURES = "; img2dataset downloads pictures, and folder:DIR reads those that a metadata.jsonl names"
_STATUS = "status"  # img2dataset's: "success", "failed_to_download" or "failed_to_resize".

Schemas = Mapping[str, pa.Schema]  # Name of a file -> its schema.


@dataclass(frozen=True)
class Chosen:
    """The names of the columns that are read."""

    image: str
    captions: tuple[str, ...]  # Columns of text; () for a source without captions.
    id: str | None
    label: str | None  # A column of whole numbers.
    class_names: tuple[str, ...] | None
    keys: tuple[tuple[str, str], ...]  # (column, field or "") that may say which rows have the same picture.
    status: str | None
    split: str | None  # The column that says to which split a row belongs.
    remarks: tuple[str, ...]

    @property
    def read(self) -> list[str]:
        """The columns of a record."""
        wanted = [self.image, *self.captions, self.id, self.label]
        return [name for name in wanted if name is not None]


def choose(spec: str, schemas: Schemas, caption: str | None) -> Chosen:
    """The columns of all files together; their order does not matter, and some files may have more columns.

    `caption` is the name that the user gives. Raises `DataError` if the columns cannot be determined, and for a file
    that lacks one that the others have.
    """
    kinds: dict[str, pa.DataType] = {}
    for schema in schemas.values():
        for field in schema:
            if field.name not in kinds or _is_null(kinds[field.name]):
                kinds[field.name] = field.type
    image = _image_column(spec, kinds)
    _check(spec, schemas, image, holds_picture, "pictures")
    counts = [Counter(schema.names) for schema in schemas.values()]
    twice = {name for count in counts for name, times in count.items() if times > 1}
    classes = _classes(schemas)
    once = {name: kind for name, kind in kinds.items() if name not in twice}
    label = _label_column(spec, schemas, once)
    other = _class_column(schemas, once, classes)
    texts = _caption_columns(spec, kinds, image, caption, classified=other is not None)
    label = label or (None if texts else other)
    for text in texts:
        _check(spec, schemas, text, holds_text, "text")
    common = {name for name in kinds if all(count[name] == 1 for count in counts)}
    ids = [name for name in IDS if name in common and name not in (image, *texts)]
    in_struct = any(pa.types.is_struct(plain(schema.field(image).type)) for schema in schemas.values())
    status = _STATUS in kinds.keys() - twice and _STATUS not in texts and holds_text(kinds[_STATUS])
    split = SplitColumn.NAME in kinds.keys() - twice - {*texts} and holds_text(kinds[SplitColumn.NAME])
    return Chosen(
        image=image,
        captions=tuple(texts),
        id=next((name for name in IDS if name in common and name != image), None),
        label=label,
        class_names=_class_names(spec, classes.get(label, {})) if label else None,
        keys=(*((name, "") for name in ids), *([(image, "path")] if in_struct else [])),
        status=_STATUS if status else None,
        split=SplitColumn.NAME if split else None,
        remarks=tuple(_remarks(kinds, texts, label, classes, guessed=caption is None)),
    )


def plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values, without a dictionary or an extension around them."""
    while True:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            return kind


def holds_picture(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold pictures: bytes of any kind, or a struct with such a field `bytes`."""
    kind = plain(kind)
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and holds_picture(kind.field("bytes").type)
    return _is_bytes(kind) or pa.types.is_fixed_size_binary(kind)


def holds_text(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold texts: strings, lists of them, and structs of them, nested in any way."""
    kind = plain(kind)
    if _is_list(kind):
        return holds_text(kind.value_type)
    if pa.types.is_struct(kind):
        return any(kind.get_field_index(key) >= 0 and holds_text(kind.field(key).type) for key in _TEXTS)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def texts_in(value: Any, what: str) -> list[str]:
    """The texts in a value of a column of text, in order. Raises `DataError` naming `what` for other values in it."""
    return [] if value is None else texts_of(_flat(value), what)


def picture_of(value: Any) -> tuple[bytes | None, str | None]:
    """The bytes and the path of a picture, from bytes or `{"bytes": ..., "path": ...}`; None for what is missing."""
    path = None
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes")
    return value if isinstance(value, bytes) else None, path if isinstance(path, str) else None


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [text for part in value for text in _flat(part)]
    if isinstance(value, dict):
        return _flat(next((value[key] for key in _TEXTS if value.get(key) is not None), None))
    return [value]


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(plain(kind))


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    plain_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return plain_list or types.is_list_view(kind) or types.is_large_list_view(kind)


def _is_null(kind: pa.DataType) -> bool:
    """Whether a column of this type holds nothing, as in a file in which every value is missing."""
    kind = plain(kind)
    if _is_list(kind):
        return _is_null(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_is_null(field.type) for field in kind)
    return pa.types.is_null(kind)


def _image_column(spec: str, kinds: Mapping[str, pa.DataType]) -> str:
    names = [name for name, kind in kinds.items() if holds_picture(kind)]
    if chosen := next((name for name in _IMAGES if name in names), None):
        return chosen
    # Bytes of a fixed size, such as hashes, are pictures only where there are no others.
    varying = [name for name in names if not pa.types.is_fixed_size_binary(plain(kinds[name]))] or names
    if len(varying) != 1:
        raise DataError(
            f"{spec}: {len(varying)} columns of bytes among {', '.join(kinds) or 'none'}; want one, or 'image'"
            + ("" if varying else _NO_PICTURES)
        )
    return varying[0]


def _caption_columns(
    spec: str, kinds: Mapping[str, pa.DataType], image: str, given: str | None, *, classified: bool
) -> Sequence[str]:
    names = [name for name, kind in kinds.items() if name != image and holds_text(kind)]
    empty = [name for name, kind in kinds.items() if name != image and _is_null(kind)]
    if given is not None:
        if given not in names + empty:
            raise DataError(f"{spec}: no column of text {given!r}; there are {', '.join(names) or 'none'}")
        return [given]
    if (chosen := _usual(names) or numbered_captions(names)) or classified:
        return chosen
    others = [name for name in names if name not in IDS]
    strings = [
        name for name in others if pa.types.is_string(kinds[name]) or pa.types.is_large_string(kinds[name])
    ]
    for some in (others, strings):
        if len(some) == 1:
            return some
    if chosen := _usual(empty):
        return chosen
    if "label" in kinds or not others:  # A classification set, or pictures alone.
        return []
    raise DataError(
        f"{spec}: which of the columns {', '.join(kinds) or 'none'} holds the captions? Name it as the caption"
    )


def _usual(names: Sequence[str]) -> list[str]:
    """The first column whose name is usual for captions, in any case, or []; webdatasets on the Hub call it `txt`."""
    usual = (*CAPTIONS, "txt")
    near = {name.lower(): name for name in reversed(names)}
    exact, any_case = (
        [name for name in usual if name in names],
        [near[name] for name in usual if name in near],
    )
    return (exact or any_case)[:1]


def _remarks(
    kinds: Mapping[str, pa.DataType],
    texts: Sequence[str],
    label: str | None,
    classes: Collection[str],
    *,
    guessed: bool,
) -> Iterator[str]:
    if guessed and len(texts) == 1 and not _usual(texts):
        yield (
            f"The captions are taken from {texts[0]!r}, the only column of text; if that is wrong, name their column."
        )
    for name in CAPTIONS if not texts else ():
        if name in kinds and not holds_text(kinds[name]):
            yield f"The column {name!r} holds {kinds[name]}, not text, so there are no captions."
    if "label" in kinds and label is None:
        yield f"The column 'label' holds {kinds['label']}, not whole numbers, so there are no labels."
    elif label is None and not texts and len(classes) > 1:
        yield (
            f"The columns {', '.join(sorted(classes))} hold classes and none of them is called 'label', so there are "
            "no labels; rename the one that is meant."
        )


def _check(spec: str, schemas: Schemas, name: str, holds: Callable[[pa.DataType], bool], what: str) -> None:
    """Raises `DataError` for the first file whose column `name` is missing or holds something else."""
    good = next((file for file, schema in schemas.items() if name in schema.names), "")
    for file, schema in schemas.items():
        if name not in schema.names:
            raise DataError(
                f"{spec}: {file} has no column {name!r}, which {good} has; it has "
                f"{', '.join(schema.names) or 'none'}; want the same one in each file"
            )
        if schema.names.count(name) > 1:
            raise DataError(f"{spec}: {file} has {schema.names.count(name)} columns {name!r}; want one")
        kind = schema.field(name).type
        if not holds(kind) and not _is_null(kind) and not _lacks_bytes(kind):
            raise DataError(f"{spec}: column {name!r} of {file} holds {kind}; want {what}")


def _lacks_bytes(kind: pa.DataType) -> bool:
    """Whether pictures are structs whose bytes are missing in all rows."""
    kind = plain(kind)
    return (
        pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_null(kind.field("bytes").type)
    )


def _label_column(spec: str, schemas: Schemas, kinds: Mapping[str, pa.DataType]) -> str | None:
    """`label`, if it is a column of numbers. Raises `DataError` if it has numbers in some files only."""
    if "label" not in kinds or not _is_number(kinds["label"]):
        return None
    having = {file: schema for file, schema in schemas.items() if "label" in schema.names}
    _check(spec, having, "label", _is_number, "whole numbers, as in the first file")
    return "label"


def _class_column(schemas: Schemas, kinds: Mapping[str, pa.DataType], classes: Collection[str]) -> str | None:
    """The column of numbers with the classes of a set that has no `label`; None if there is none, or several."""
    found = ["labels"] if "labels" in kinds else list(classes)
    if "label" in kinds or len(found) != 1 or found[0] not in kinds or not _is_number(kinds[found[0]]):
        return None
    types = [schema.field(found[0]).type for schema in schemas.values() if found[0] in schema.names]
    return found[0] if all(_is_number(kind) or _is_null(kind) for kind in types) else None


def _classes(schemas: Schemas) -> dict[str, dict[tuple[str, ...], str]]:
    """Column -> the names of its classes that `datasets` wrote into the files, each with the first file."""
    found: dict[str, dict[tuple[str, ...], str]] = {}
    for file, schema in schemas.items():
        try:
            about = strict_json.parse((schema.metadata or {})[b"huggingface"])
            features = about["info"]["features"].items()
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
        for column, feature in features:
            names = feature.get("names") if isinstance(feature, dict) else None
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                found.setdefault(column, {}).setdefault(tuple(names), file)
    return found


def _class_names(spec: str, found: Mapping[tuple[str, ...], str]) -> tuple[str, ...] | None:
    """The only names, or None. Raises `DataError` if the files disagree."""
    if len(found) > 1:
        first, second, *_ = found.values()
        raise DataError(f"{spec}: {second} names other classes than {first}; want the same in each file")
    return next(iter(found), None)
