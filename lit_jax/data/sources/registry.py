"""`open_source`: opens a source by its name."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from lit_jax.data.sources.base import FORMS, Mixed, Source, remarks_of
from lit_jax.utils.arguments import check_depth
from lit_jax.utils.errors import ConfigError, DataError, LitJaxError, first_line
from lit_jax.utils.inside import denied
from lit_jax.utils.run_folder import run_of

_ENDINGS = {".tar": "wds", ".parquet": "parquet", ".arrow": "arrow"}
_log = logging.getLogger(__name__)


def open_source(spec: str | Path | Mixed, *, caption: str | None = None) -> Source:
    """The source named `spec`, or the mixture of a list of (spec, weight).

    `spec` is `tfds:NAME[:VERSION]/SPLIT` or `tfds:DIR/SPLIT`, where SPLIT may be a slice such as `train[:80%]`;
    `folder:DIR`; `wds:`, `parquet:` or `arrow:` with a file, a directory or a pattern; or `shapes:N/SPLIT`. `folder`,
    `wds` and `parquet` also accept a URL of fsspec, such as `gs://BUCKET/...`. For a path without a prefix, its files
    decide which of these it is. Nothing is downloaded. `caption` names the feature, column or key of the captions; by
    default it is detected. What the source remarks about itself (`remarks_of`) is logged, each sentence as a warning.

    Raises `DataError` if the source is missing, not understood or empty.
    """
    from lit_jax.data.sources.arrow import ArrowSource
    from lit_jax.data.sources.folder import FolderSource
    from lit_jax.data.sources.mixture import MixtureSource
    from lit_jax.data.sources.parquet import ParquetSource
    from lit_jax.data.sources.synthetic import SyntheticSource
    from lit_jax.data.sources.tfds import TfdsSource
    from lit_jax.data.sources.webdataset import WebDatasetSource

    if isinstance(spec, Path):
        spec = str(spec)
    if not isinstance(spec, str):
        check_depth(spec, "the source")
        if not isinstance(spec, list | tuple) or not all(
            isinstance(part, list | tuple) and len(part) == 2 for part in spec
        ):
            raise ConfigError(f"the source is {spec!r:.60}; want its name, or a list of (name, weight)")
        return MixtureSource([(open_source(part, caption=caption), weight) for part, weight in spec])
    kinds: dict[str, Callable[[str, str | None], Source]] = {
        "tfds": TfdsSource,
        "folder": FolderSource,
        "wds": WebDatasetSource,
        "parquet": ParquetSource,
        "arrow": ArrowSource,
        "shapes": lambda name, _: SyntheticSource(name),
    }
    kind, colon, rest = spec.partition(":")
    if kind in kinds and kind != "shapes" and colon and not rest:  # As a path it would be the current folder.
        raise DataError(f"{spec} names nothing; want {FORMS}")
    try:
        if not colon or kind not in kinds:
            kind, rest = _kind_of(spec), spec
        source = kinds[kind](rest, caption)
    except Exception as error:  # Libraries for remote files raise many kinds of errors.
        if isinstance(error, LitJaxError) or "://" not in spec:
            raise
        raise DataError(f"{spec}: cannot be read: {first_line(error)}") from error
    for remark in remarks_of(source):
        _log.warning("%s: %s", source.spec, remark)
    return source


def _kind_of(spec: str) -> str:
    """The kind of the source at a path without a prefix."""
    from lit_jax.data.sources.files import Files, is_url
    from lit_jax.data.sources.folder_layouts import is_img2dataset, is_layout
    from lit_jax.data.sources.folder_tables import TABLES
    from lit_jax.data.sources.other_sources import ARROW_SPLITS, hint, hint_of_name, hint_of_table
    from lit_jax.data.sources.tfds import INFO, is_prepared
    from lit_jax.data.transforms.image_files import is_picture

    if spec.startswith(("http://", "https://")) and (way := hint_of_name(spec)):
        raise DataError(f"{spec} is a page and not files; {way}")
    path = os.path.expanduser(spec)
    if not is_url(spec) and (is_prepared(path) or is_prepared(os.path.dirname(path))):
        return "tfds"
    ending = os.path.splitext(spec.lower())[1]
    if ending in _ENDINGS and ("/" in spec or os.path.exists(path)):
        return _ENDINGS[ending]
    if not is_url(spec) and (why := denied(path)):
        raise DataError(f"{spec} cannot be read: {why}; see to its permissions")
    files = Files(spec, spec) if is_url(spec) or os.path.isdir(path) else None
    if files is None or not files.fs.isdir(files.root):
        if os.path.isfile(path) and (what := hint([spec]) or hint_of_table([spec])):
            raise DataError(what)
        way = f"; {way}" if (way := hint_of_name(spec)) else ""
        raise DataError(f"no source {spec!r}: it is not a directory; want one, or {FORMS}{way}")
    names = {os.path.basename(name) for name in files.fs.ls(files.root, detail=False)}
    if names & set(TABLES) or is_img2dataset(names):
        return "folder"
    if "metadata.parquet" in names and any(map(is_picture, names)):
        return "folder"  # It refuses that table with an explanation.
    if files.local and ARROW_SPLITS in names:
        return "arrow"
    for ending, kind in _ENDINGS.items():
        if any(name.lower().endswith(ending) for name in names):
            return kind
    if any(map(is_picture, names)) or is_layout(names):
        return "folder"
    if files.local and (run := run_of(Path(path))) is not None:
        raise DataError(f"{spec} belongs to a run of `lit-jax train`, {run}, and is no source; want {FORMS}")
    below = files.below(2)
    pictures = any(map(is_picture, below))
    if not pictures and (what := hint(below)):
        raise DataError(f"{spec}: {what}")
    table = f"; {what}" if pictures and (what := hint_of_table(below)) else ""
    raise DataError(
        f"{spec} is a directory without {', '.join(TABLES)} or pictures (a folder), {INFO} (a prepared set), *.tar, "
        f"*.parquet or *.arrow; want one of them, or folder:{spec} for a directory for each class{table}"
    )
