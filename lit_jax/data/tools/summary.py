"""A summary of a source: how many records, of which sizes and lengths, and how many are duplicates or broken."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_jax.data.bad_records import frequent
from lit_jax.data.captions import usable_captions
from lit_jax.data.packing import share_needed
from lit_jax.data.sources.base import Source, check_source, counted, is_number, remarks_of
from lit_jax.data.tools.contact_sheet import SHOWN, write_sheet
from lit_jax.data.tools.shards import picture_hash
from lit_jax.data.transforms.image_files import open_header, to_rgb
from lit_jax.utils.arguments import is_whole, whole_number
from lit_jax.utils.cores import cores
from lit_jax.utils.errors import ConfigError, DataError, first_line
from lit_jax.utils.typing import CountTokens, Progress

_NAME_THEM = "zero-shot classification needs names: evaluate --class-names FILE"
_AT_ONCE = 256  # Records that the threads read between two reports of progress.
_LONGEST = 1_000_000  # The largest `text_length`, in tokens.
_QUANTILES = {"least": 0.0, "median": 0.5, "95%": 0.95, "most": 1.0}


class _Looked(NamedTuple):
    """What the summary needs to know of one record."""

    size: tuple[int, int] | None  # Width, height; None: broken.
    format: str
    digest: bytes
    lengths: list[int]
    captions: int
    labelled: bool
    reason: str = ""
    unusable: int = 0  # Captions that are empty or no text, beside usable ones.
    of_lines: int = 0  # Captions of several lines.


def summarize(
    source: Source,
    *,
    count_tokens: CountTokens | None = None,
    text_length: int = 64,
    limit: int | None = 10_000,
    seed: int = 0,
    sheet: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """A summary of `source`, with shares of the records looked at: `limit` of them, drawn by `seed` (None: all).

    Threads read and decode each of these records. With `count_tokens` (`tokenizer.make_count_tokens`), lengths are in
    tokens, "cut" is the share of captions that `text_length` would cut, and "text_rows" the share of rows that the
    captions need if they share rows (`model.text_rows`); without it, lengths are in words, and both are missing.
    "same_picture" is the share of records with the file of an earlier one, and "remarks" are sentences on what was left
    out, is broken or looks odd, with counts and the first place. A PNG of 16 pairs is written to `sheet`. Raises
    `ConfigError` for a `limit` or `text_length` out of range and `DataError` if all records are broken.
    """
    check_source(source)
    limit = None if limit is None else whole_number(limit, "limit")
    if not is_whole(text_length) or not 1 <= text_length <= _LONGEST:
        raise ConfigError(f"text_length is {text_length!r}; want 1 to {_LONGEST:,}")
    n = len(source)
    chosen: Sequence[int] = range(n)
    if limit is not None and limit < n:
        chosen = np.sort(np.random.default_rng(seed).choice(n, limit, replace=False)).tolist()

    def lengths(texts: Sequence[str]) -> list[int]:
        return count_tokens(texts) if count_tokens else [len(text.split()) for text in texts]

    looked = list(_look(source, chosen, lengths, progress))
    intact = [record for record in looked if record.size is not None]
    if not intact:
        raise DataError(f"{source.spec}: every one of {len(looked)} records is broken: {looked[0].reason}")
    sizes = np.array([record.size for record in intact])
    words = np.array([length for record in intact for length in record.lengths])
    copies = Counter(record.digest for record in intact)
    reasons = [record.reason for record in looked if record.size is None]
    summary: dict[str, Any] = {
        "source": source.spec,
        "records": n,
        "looked_at": len(looked),
        "captions_per_record": len(words) / len(intact),
        "without_caption": sum(not record.captions for record in intact) / len(intact),
        "classes": len(source.class_names or ()),
        "labelled": sum(record.labelled for record in intact) / len(intact),
        "formats": dict(Counter(record.format for record in intact).most_common()),
        "shorter_side": _spread(sizes.min(axis=1)),
        "longer_side": _spread(sizes.max(axis=1)),
        "tokens" if count_tokens else "words": _spread(words),
        "same_picture": sum(times - 1 for times in copies.values()) / len(intact),
        "broken": len(reasons) / len(looked),
        "reasons": dict(frequent(reasons, 5)),
        "remarks": [
            *remarks_of(source),
            *_of_classes(source, any(record.labelled for record in intact)),
            *_of_records(looked, chosen),
        ],
    }
    if unusable := sum(record.unusable for record in looked):
        summary["unusable_captions"] = unusable
    if count_tokens:
        summary |= _of_tokens(words, text_length)
    if sheet is not None:
        drawn = np.random.default_rng(seed).permutation(len(looked))
        good = [int(chosen[i]) for i in drawn if looked[i].size is not None][:SHOWN]
        write_sheet(source, sorted(good), Path(sheet))
        summary["sheet"] = os.fspath(sheet)
    return summary


def _of_tokens(lengths: np.ndarray, text_length: int) -> dict[str, Any]:
    """What a limit of `text_length` tokens does to texts of these `lengths`."""
    summary = {"text_length": text_length, "cut": 0.0}
    if len(lengths):
        summary["cut"] = float((lengths > text_length).mean())
        summary["text_rows"] = share_needed(lengths.tolist(), text_length)
    return summary


def _of_classes(source: Source, labelled: bool) -> Iterator[str]:
    names = source.class_names
    if names and all(map(is_number, names)):
        shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        yield f"the names of its {len(names)} classes are numbers ({shown}); {_NAME_THEM}"
    elif labelled and not names:
        yield f"its labels are numbers without names; {_NAME_THEM}"


def _of_records(looked: Sequence[_Looked], chosen: Sequence[int]) -> Iterator[str]:
    at = list(zip(chosen, looked, strict=True))
    if broken := [(index, record.reason) for index, record in at if record.size is None]:
        index, reason = broken[0]
        yield f"{counted(len(broken), 'record is', 'records are')} broken (the first is record {index}: {reason})"
    if unusable := [(index, record.unusable) for index, record in at if record.unusable]:
        several = counted(sum(n for _, n in unusable), "caption", "captions")
        yield f"{several} beside others, empty or no text, left out (the first in record {unusable[0][0]})"
    if long := [(index, record.of_lines) for index, record in at if record.of_lines]:
        several = counted(sum(n for _, n in long), "caption has", "captions have")
        yield (
            f"{several} several lines (the first in record {long[0][0]}); if each line is a caption of its own, write "
            "them as a list (docs/data.md)"
        )
    intact = [(index, record) for index, record in at if record.size is not None]
    bare = [index for index, record in intact if not record.captions]
    if 0 < len(bare) < len(intact):
        yield f"{counted(len(bare), 'record has', 'records have')} no caption (the first is record {bare[0]})"
    first: dict[bytes, int] = {}
    copies = [(index, first.setdefault(record.digest, index)) for index, record in intact]
    if copies := [(index, earlier) for index, earlier in copies if index != earlier]:
        index, earlier = copies[0]
        yield (
            f"{counted(len(copies), 'record has', 'records have')} the picture of an earlier one (the first is record "
            f"{index}, with that of record {earlier})"
        )


def _look(
    source: Source,
    chosen: Sequence[int],
    lengths: CountTokens,
    progress: Progress | None,
) -> Iterator[_Looked]:
    def look(index: int) -> _Looked:
        try:
            record = source[index]
            captions = usable_captions(record["captions"]) if record["captions"] else []
            unusable = len(record["captions"]) - len(captions)
            image = open_header(record["image"])
            kind, size = image.format or "", image.size
            to_rgb(image)
        except DataError as e:
            return _Looked(None, "", b"", [], 0, False, first_line(e))
        return _Looked(
            size,
            kind,
            picture_hash(record),
            lengths(captions),
            len(captions),
            "label" in record,
            unusable=unusable,
            of_lines=sum("\n" in caption.strip() for caption in captions),
        )

    with ThreadPoolExecutor(min(cores(), 16)) as pool:
        for start in range(0, len(chosen), _AT_ONCE):
            indices = chosen[start : start + _AT_ONCE]
            yield from pool.map(look, indices)
            if progress:
                progress(start + len(indices), len(chosen))


def _spread(values: np.ndarray) -> dict[str, int]:
    return {name: int(np.quantile(values, q)) if len(values) else 0 for name, q in _QUANTILES.items()}
