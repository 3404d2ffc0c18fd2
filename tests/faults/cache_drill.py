"""`drill` with two locked towers: a run killed while both caches are filled, and while heads are trained on them.

python -m tests.faults.cache_drill FOLDER STEPS [POINT ...]
"""

import os
import sys
from pathlib import Path

from lit_jax.train import cache_draft, caption_cache, loop, tower_cache
from tests import tiny
from tests.faults.drill import Log, Point, compared, die, ends, forked, into_second_save, nth, of_step, report

# The config, with everything that is computed from the caches.
CHANGES = {
    "cache": True,
    "model__lock_towers": "LL",
    "model__vision_pooling": "cls_mean",
    "model__text_pooling": "mean",
    "model__vision_head": "mlp",
    "model__vision_head_config": {"hidden": [20], "dropout": 0.2, "skip": True, "standardise": True},
    "model__text_head": "linear",
    "model__text_head_config": {"standardise": True},
    "model__init": "cca",
}
RECORDS, TESTED = 160, 48  # Two chunks of captions for training and one for testing, at 8 rows per batch.


def half_a_chunk(args):
    """Writes the first bytes of a chunk's rows and dies, like a process that is killed during the write."""
    draft, rows = args[:2]
    draft._file.write(rows.tobytes()[:100])
    draft._file.flush()
    die()


def half_a_line(args):
    """Writes half of the chunk's line in the log and dies; the chunk itself is written."""
    args[0]._log.write(b'{"records": 8, "rows')
    args[0]._log.flush()
    die()


# In an order in which one run can reach them: the test data are cached first, and of each source, first the pictures.
POINTS = {
    "first batch of pictures": Point(tower_cache, "put_batch", before=nth(1)),
    "half a chunk": Point(cache_draft.Draft, "append", before=half_a_chunk),
    "half a line": Point(cache_draft.Draft, "append", after=half_a_line),
    "before the sums of a cache": Point(cache_draft, "seal", before=nth(1)),
    "before a cache has its name": Point(Path, "replace", before=nth(1, ends(".npy"))),
    "after a cache has its name": Point(Path, "replace", after=nth(1, ends(".npy"))),
    "a batch of captions": Point(caption_cache, "put_batch", before=nth(4)),
    "captions without rows": Point(caption_cache, "put", after=nth(1)),
    "second chunk of captions": Point(caption_cache.CaptionCache, "_append", before=nth(2)),
    "before the closed form": Point(loop, "aligned", before=nth(1)),
    "after the closed form": Point(loop, "aligned", after=nth(1)),
    "first step": Point(Log, "step", before=nth(3)),
    "10 ms into a save": into_second_save(0.01),
    "before the rename": Point(os, "rename", before=nth(2, of_step)),
    "between two saves": Point(Log, "step", before=nth(6)),
}


def files(workdir):
    """The files of the caches and their contents, including leftovers of a draft."""
    return {path.name: path.read_bytes() for path in (workdir / "cache").iterdir() if path.is_file()}


def main(folder, steps, names):
    forked(lambda: (tiny.write_towers(folder), tiny.write_pairs(folder / "pairs", n=RECORDS)))
    forked(lambda: tiny.write_pairs(folder / "others", n=TESTED))
    points = {name: POINTS[name] for name in names}
    result = compared(folder, points, steps=steps, data__test=f"folder:{folder / 'others'}", **CHANGES)
    straight, cut = (files(folder / name) for name in ("straight", "cut"))
    report(result | {"caches": sorted(straight), "same caches": straight == cut})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(POINTS))
