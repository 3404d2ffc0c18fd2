"""What is in a source: how many records, how large, how long, how many of them twice or broken."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_jax.data.sources.base import Source, check_caption
from lit_jax.data.tools.contact_sheet import SHOWN, contact_sheet
from lit_jax.data.tools.shards import picture_hash
from lit_jax.data.transforms.image_files import open_header, to_rgb
from lit_jax.utils.errors import ConfigError, DataError, first_line

_AT_ONCE = 256  # Records in the threads.
_QUANTILES = {"least": 0.0, "median": 0.5, "95%": 0.95, "most": 1.0}


class _Seen(NamedTuple):
    """What is kept of one record that was looked at."""

    size: tuple[int, int] | None  # Width, height; None: broken.
    format: str
    digest: bytes
    lengths: list[int]
    captions: int
    labelled: bool
    reason: str = ""


def summarize(
    source: Source,
    *,
    count_tokens: Callable[[Sequence[str]], list[int]] | None = None,
    text_length: int = 64,
    limit: int | None = 10_000,
    seed: int = 0,
    sheet: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """A summary of `source`; its shares are of the records that were looked at, `limit` drawn by `seed` (None: all).

    Each of them is read and decoded, in threads. `count_tokens` (`tokenizer.make_count_tokens`) gives the tokens of
    texts, and "cut" the share of captions that `text_length` would cut; without it, lengths are words and nothing is
    said of cutting. "same_picture" is the share of records whose file is that of another one. `sheet` is where a PNG of
    16 pairs goes. Raises `DataError` where every record is broken.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; want 1 or more")
    n = len(source)
    chosen: Sequence[int] = range(n)
    if limit is not None and limit < n:
        chosen = np.sort(np.random.default_rng(seed).choice(n, limit, replace=False)).tolist()

    def lengths(texts: Sequence[str]) -> list[int]:
        return count_tokens(texts) if count_tokens else [len(text.split()) for text in texts]

    seen = list(_look(source, chosen, lengths, progress))
    whole = [one for one in seen if one.size is not None]
    if not whole:
        raise DataError(f"{source.spec}: every one of {len(seen)} records is broken: {seen[0].reason}")
    sizes = np.array([one.size for one in whole])
    words = np.array([length for one in whole for length in one.lengths])
    copies = Counter(one.digest for one in whole)
    reasons = Counter(one.reason for one in seen if one.size is None)
    found: dict[str, Any] = {
        "source": source.spec,
        "records": n,
        "looked_at": len(seen),
        "captions_per_record": len(words) / len(whole),
        "without_caption": sum(not one.captions for one in whole) / len(whole),
        "classes": len(source.class_names or ()),
        "labelled": sum(one.labelled for one in whole) / len(whole),
        "formats": dict(Counter(one.format for one in whole).most_common()),
        "shorter_side": _spread(sizes.min(axis=1)),
        "longer_side": _spread(sizes.max(axis=1)),
        "tokens" if count_tokens else "words": _spread(words),
        "same_picture": sum(times - 1 for times in copies.values()) / len(whole),
        "broken": sum(reasons.values()) / len(seen),
        "reasons": dict(reasons.most_common(5)),
    }
    if count_tokens:
        found["text_length"] = text_length
        found["cut"] = float((words > text_length).mean()) if len(words) else 0.0
    if sheet is not None:
        drawn = np.random.default_rng(seed).permutation(len(seen))
        good = [int(chosen[i]) for i in drawn if seen[i].size is not None][:SHOWN]
        contact_sheet(source, sorted(good)).save(Path(sheet), "PNG")
        found["sheet"] = os.fspath(sheet)
    return found


def _look(
    source: Source,
    chosen: Sequence[int],
    lengths: Callable[[Sequence[str]], list[int]],
    progress: Callable[[int, int], None] | None,
) -> Iterator[_Seen]:
    def look(index: int) -> _Seen:
        try:
            record = source[index]
            captions = record["captions"]
            for caption in captions:
                check_caption(caption)
            image = open_header(record["image"])
            kind, size = image.format or "", image.size
            to_rgb(image)
        except DataError as e:
            return _Seen(None, "", b"", [], 0, False, first_line(e))
        return _Seen(size, kind, picture_hash(record), lengths(captions), len(captions), "label" in record)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        for start in range(0, len(chosen), _AT_ONCE):
            some = chosen[start : start + _AT_ONCE]
            yield from pool.map(look, some)
            if progress:
                progress(start + len(some), len(chosen))


def _spread(values: np.ndarray) -> dict[str, int]:
    return {name: int(np.quantile(values, q)) if len(values) else 0 for name, q in _QUANTILES.items()}
