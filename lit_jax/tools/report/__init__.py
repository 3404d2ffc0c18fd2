"""One page about a run: what was trained on what, its numbers over steps, what the model sees, on what machine.

The page is one file: style, charts and pictures are inside, and it forbids the browser every request.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from etils import epath

from lit_jax.data.sources.base import Source
from lit_jax.data.sources.registry import open_source
from lit_jax.data.transforms.image_files import open_image
from lit_jax.evals.bootstrap import DRAWS, LEVEL
from lit_jax.tools import pages
from lit_jax.tools.report import facts, numbers
from lit_jax.tools.report.album import Album, look
from lit_jax.train.trained import read_trained
from lit_jax.utils.atomic import put
from lit_jax.utils.environment import machine
from lit_jax.utils.errors import LitJaxError
from lit_jax.workdir.bucket import Bucket, Workdir, local_folder, opened, pull, push
from lit_jax.workdir.files import CONFIG, METRICS, MODEL, RANKS, portable, read_recipe
from lit_jax.workdir.sessions import SESSIONS

NAME = "report.html"
SIDE, SMALL = 128, 40  # Pixels of a picture on the page, and of one beside the matrix.


def report(workdir: str | Path, output: str | Path | None = None) -> Path | epath.Path:
    """Writes the page about the run in `workdir` to `output`, by default WORKDIR/report.html, and returns its path.

    The workdir is a folder, or gs://BUCKET/FOLDER. What it does not hold, such as a checkpoint or the pictures that
    were tested on, is named on the page. Folders of this machine are not: of a path the last part stays. Raises
    CheckpointError where there is no run.
    """
    with opened(workdir) as found:
        pull(found, CONFIG, MODEL, METRICS, SESSIONS, RANKS)
        path = found / NAME if output is None else local_folder(output, "--output")
        page = _page(found)
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, lambda draft: draft.write_text(page, encoding="utf-8"))
        push(found)
    return epath.Path(f"{found}/{NAME}") if output is None and isinstance(found, Bucket) else path


def _page(workdir: Workdir) -> str:
    recipe = read_recipe(workdir)
    rows, bounds = numbers.rows(workdir), numbers.bounds(workdir)
    tested = numbers.tested(rows)
    missing: list[str] = []
    here = machine()
    run = album = test = None
    try:
        run = read_trained(workdir)
        if recipe.data.test:
            test = open_source(recipe.data.test, caption=recipe.data.caption or None)
            album = look(run, test, workdir)
        else:
            missing.append("The run has no test data: no metrics, no pictures and no captions are shown.")
    except LitJaxError as error:
        missing.append(f"No pictures and captions are shown: {_public(error, workdir)}.")
    if not rows:
        missing.append("No step was logged yet, so there are no curves.")
    if not {row["step"] for row in tested} <= bounds.keys():
        missing.append("Not every evaluation kept its ranks, without which it has no interval.")
    whole = album is not None and test is not None and album.records == len(test)
    return pages.render(
        "report.html",
        title=_name(workdir),
        facts=facts.facts(recipe, run, test),
        measured=numbers.measured(tested, bounds, album.chance if album and whole else {}),
        charts=numbers.charts(rows, bounds),
        album=album,
        pictures=_pictures(test, album, SIDE),
        small=_pictures(test, album, SMALL),
        cost=numbers.cost(rows, recipe.batch_size),
        sessions=numbers.sessions(workdir),
        machine=here,
        here=numbers.versions(here),
        recipe=json.dumps(portable(recipe), indent=1, ensure_ascii=False),
        missing=missing,
        level=f"{LEVEL:.0%}",
        draws=DRAWS,
        step=run.step if run else max((row["step"] for row in rows), default=0),
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _name(workdir: Workdir) -> str:
    return workdir.name if isinstance(workdir, Bucket) else workdir.resolve().name


def _public(error: Exception, workdir: Workdir) -> str:
    """What an error says, without the folders that lead to the workdir."""
    said, folder = str(error).rstrip("."), (workdir / "_").parent
    for path in dict.fromkeys((str(folder.resolve()), str(folder), str(workdir))):
        said = said.replace(f"{path}/", "").replace(path, _name(workdir))
    return said


def _pictures(test: Source | None, album: Album | None, side: int) -> dict[int, str]:
    """Record -> its picture as a data: URI."""
    if test is None or album is None:
        return {}
    records = album.shown if side == SIDE else {one.record for one in album.pictures}
    return {i: pages.thumbnail(open_image(test[i]["image"]), side) for i in sorted(records)}
