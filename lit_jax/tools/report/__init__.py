"""One page about a run: what was trained on what, its numbers over the steps, what the model sees, and the machine.

The page is one file, with style, charts and pictures inside, and it forbids the browser to make any requests.
"""

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from etils import epath

from lit_jax.data.sources.base import Source
from lit_jax.data.sources.registry import open_source
from lit_jax.data.transforms.image_files import open_image
from lit_jax.evals.bootstrap import DRAWS, LEVEL
from lit_jax.evals.retrieval import KS
from lit_jax.tools import pages
from lit_jax.tools.align import pairs
from lit_jax.tools.report import facts, numbers
from lit_jax.tools.report.album import Album, look
from lit_jax.train.trained import read_trained
from lit_jax.utils.atomic import put
from lit_jax.utils.environment import machine
from lit_jax.utils.errors import DataError, LitJaxError
from lit_jax.utils.local_folder import local_file
from lit_jax.utils.redact import public
from lit_jax.workdir.bucket import Bucket, Workdir, opened, pull, push
from lit_jax.workdir.files import CONFIG, METRICS, MODEL, RANKS, portable, read_run_config
from lit_jax.workdir.sessions import SESSIONS

NAME = "report.html"
SIDE, SMALL = 128, 40  # Pixels of a picture on the page, and of a picture beside the matrix.


def report(workdir: str | Path, output: str | Path | None = None) -> Path | epath.Path:
    """Writes the page about the run in `workdir` to `output`, by default WORKDIR/report.html, and returns its path.

    The workdir is a folder, or gs://BUCKET/FOLDER. The page names what is missing from it, such as a checkpoint or the
    test pictures. It does not name folders of this machine: only the last component of a path is shown. Raises
    CheckpointError if there is no run, ConfigError for an `output` that cannot be written.
    """
    asked = None if output is None else local_file(output, "--output")
    with opened(workdir) as place:
        pull(place, CONFIG, MODEL, METRICS, SESSIONS, RANKS)
        path = asked or place / NAME
        if asked is None and not isinstance(place, Bucket):
            local_file(path, "--output")
        page = _page(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, lambda draft: draft.write_text(page, encoding="utf-8"))
        push(place)
    return epath.Path(f"{place}/{NAME}") if output is None and isinstance(place, Bucket) else path


def _page(workdir: Workdir) -> str:
    config = read_run_config(workdir)
    rows, ranks = numbers.rows(workdir), numbers.ranks(workdir)
    bounds = numbers.bounds(ranks)
    tested = numbers.tested(rows)
    missing: list[str] = []
    this_machine = machine()
    run = album = test = None
    try:
        run = read_trained(workdir)
        if config.data.test:
            test = open_source(config.data.test, caption=config.data.caption or None)
            album = look(run, test, workdir)
        else:
            missing.append("The run has no test data, so no metrics, pictures or captions are shown.")
    except LitJaxError as error:
        missing.append(f"No pictures and captions are shown: {_public(error, workdir)}.")
    if not rows:
        missing.append("No step has been logged yet, so there are no curves.")
    if not {row["step"] for row in tested} <= ranks.keys():
        missing.append("The ranks of some evaluations are missing, so these have no intervals.")
    whole = album is not None and test is not None and album.records == len(test)
    return pages.render(
        "report.html",
        title=_name(workdir),
        facts=facts.facts(config, run, test),
        measured=numbers.measured(tested, bounds, album.chance if album and whole else {}),
        by_width=numbers.by_width(tested),
        recalls=[f"{words} @{k}" for words in numbers.DIRECTION_WORDS.values() for k in KS],
        charts=numbers.charts(rows, bounds),
        album=album,
        compared=_compared(workdir, missing),
        pictures=_pictures(test, album, SIDE),
        small=_pictures(test, album, SMALL),
        cost=numbers.cost(rows, config.batch_size),
        sessions=numbers.sessions(workdir),
        machine=this_machine,
        here=numbers.versions(this_machine),
        config=json.dumps(portable(config), indent=1, ensure_ascii=False),
        missing=missing,
        level=f"{LEVEL:.0%}",
        draws=DRAWS,
        step=run.step if run else max((row["step"] for row in rows), default=0),
        steps=config.steps,
        batch_size=config.batch_size,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _compared(workdir: Workdir, missing: list[str]) -> dict[str, Any]:
    """The table of the pairs of towers that `lit-jax align` tried, if the run is one of them; else {}."""
    if isinstance(workdir, Bucket):
        return {}
    folder = workdir.resolve()
    try:
        tried = pairs.read(folder.parent)
    except DataError as error:
        missing.append(f"The pairs that were tried are not shown: {_public(error, workdir)}.")
        return {}
    own = [pair.workdir == folder.name for pair in tried]
    if not any(own):
        return {}
    named = [dataclasses.replace(pair, vision=public(pair.vision), text=public(pair.text)) for pair in tried]
    return {
        "header": pairs.HEADER,
        "rows": list(zip(pairs.rows(named), own, strict=True)),
        "said": pairs.remarks(named),
    }


def _name(workdir: Workdir) -> str:
    return workdir.name if isinstance(workdir, Bucket) else workdir.resolve().name


def _public(error: Exception, workdir: Workdir) -> str:
    """The message of an error without the folders that lead to the workdir."""
    message, folder = str(error).rstrip("."), (workdir / "_").parent
    for path in dict.fromkeys((str(folder.resolve()), str(folder), str(workdir))):
        message = message.replace(f"{path}/", "").replace(path, _name(workdir))
    return message


def _pictures(test: Source | None, album: Album | None, side: int) -> dict[int, str]:
    """The number of each record on the page -> its picture as a data: URI."""
    if test is None or album is None:
        return {}
    records = album.shown if side == SIDE else {query.record for query in album.pictures}
    return {i: pages.thumbnail(open_image(test[i]["image"]), side) for i in sorted(records)}
