"""lit-jax grid --workdir DIR [--cells LU,UU] [--seeds 0,1] [--config.steps N]"""

from collections.abc import Sequence

from lit_jax.commands.config_file import shipped_config
from lit_jax.commands.flags import Flags, whole
from lit_jax.config import NEEDLESS
from lit_jax.utils.shown import say

FLAGS = Flags(
    "grid",
    "The LiT design grid: each tower locked, tuned or from scratch, with seeds.",
    {
        "workdir": ("DIR", "Where everything is written; a second start continues there."),
        "cells": (
            "LU,UU",
            "Image and text tower, each L (locked), U (tuned) or u (from scratch) [default: all 9].",
        ),
        "seeds": ("0,1", "Every cell is trained with each of them [default: 0,1,2]."),
        "size": ("N", "Pixels of the emoji, a multiple of 14 [default: 56]."),
        "vision": ("DIR_OR_ID", "Your own image tower: folder or Hub id."),
        "text": ("DIR_OR_ID", "Your own text tower: folder or Hub id."),
        "split": ("NAME", "What is held out of the emoji: concept (default) or family, which is harder."),
        "data": ("SOURCE", "Your own pairs: folder:DIR or tfds:NAME/SPLIT; a fifth is held out."),
    },
    config=f"{shipped_config('quickstart.py')}:grid",
    empty=NEEDLESS,
)


def main(args: Sequence[str]) -> None:
    config, values = FLAGS.parse(args)
    from lit_jax.tools.grid.grid import CELLS, grid
    from lit_jax.tools.grid.tables import as_markdown
    from lit_jax.tools.quickstart.quickstart import Inputs

    inputs = Inputs(
        vision=values["vision"],
        text=values["text"],
        data=values["data"],
        split=values["split"] or "concept",
        size=whole("grid: --size", values["size"] or "56", 1),
    )
    results = grid(
        config,
        values["workdir"],
        inputs,
        cells=_listed(values["cells"]) or CELLS,
        seeds=[whole("grid: --seeds", seed) for seed in _listed(values["seeds"] or "0,1,2")],
    )
    say(as_markdown(results), end="")


def _listed(value: str | None) -> list[str]:
    return [part.strip() for part in (value or "").split(",") if part.strip()]
