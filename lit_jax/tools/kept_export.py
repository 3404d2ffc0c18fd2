"""The export in the workdir of `align` and `quickstart`: that of the newest checkpoint, also when a run goes on."""

import logging
import os
import shutil
from pathlib import Path

from lit_jax.tools.export import export
from lit_jax.tools.run_card import NOTHING_MORE, About
from lit_jax.utils.atomic import put
from lit_jax.workdir.checkpoints import Checkpoints

log = logging.getLogger(__name__)

ORIGIN = "export_of.txt"  # Beside the export: the run and the step that it is of.


def keep_exported(run: Path, folder: Path, about: About = NOTHING_MORE, *, layout: str) -> None:
    """Exports the workdir `run` into `folder`, unless that is the export of its newest checkpoint already.

    What an earlier call exported of another run or step is replaced; a folder without ORIGIN stays as it is. Raises
    what `export` raises.
    """
    origin = folder.with_name(ORIGIN)
    with Checkpoints(run, save_every=1) as checkpoints:
        now = f"{os.path.relpath(run, folder.parent)}, step {checkpoints.latest()}\n".encode(
            "utf-8", "replace"
        )
    if folder.exists():
        if not origin.is_file():
            log.info("%s is kept; remove it to have it written again", folder)
            return
        if (before := origin.read_bytes()) == now:
            return
        log.info("%s is of %s; it is written again", folder, before.decode("utf-8", "replace").strip())
        shutil.rmtree(folder)
    export(run, folder, about, layout=layout)
    put(origin, lambda draft: draft.write_bytes(now))
