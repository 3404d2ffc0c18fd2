"""lit-jax quickstart --workdir DIR [--vision ID_OR_DIR --text ID_OR_DIR --data SOURCE] [--config.seed N]"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from lit_jax.commands import shell
from lit_jax.commands.config_file import shipped_config
from lit_jax.commands.flags import Flags
from lit_jax.config import NEEDLESS
from lit_jax.utils.shown import say

FLAGS = Flags(
    "quickstart",
    "From towers to a trained model and a page about it: train, evaluate before and after, export. Towers and pictures "
    "come from the package index unless you bring your own.",
    {
        "workdir": ("DIR", "Where everything is written; a second start continues there."),
        "vision": ("DIR_OR_ID", "Your own image tower: folder or Hub id."),
        "text": ("DIR_OR_ID", "Your own text tower: folder or Hub id."),
        "pictures": ("NAME", "Its own pairs: emoji (default), or photos, from a package of Debian."),
        "split": ("NAME", "What is held out of the emoji: concept (default) or family, which is harder."),
        "data": ("SOURCE", "Your own pairs: folder:DIR or tfds:NAME/SPLIT; a fifth is held out."),
    },
    config=str(shipped_config("quickstart.py")),
    empty=NEEDLESS,
)


def main(args: Sequence[str]) -> None:
    config, values = FLAGS.parse(args)
    from lit_jax.tools.quickstart.quickstart import Inputs, brought, licences, quickstart
    from lit_jax.utils.console import table

    inputs = Inputs(
        values["vision"],
        values["text"],
        values["data"],
        pictures=values["pictures"] or "emoji",
        split=values["split"] or "concept",
    )
    own = brought(config, inputs)
    if lines := licences(**own, pictures=inputs.pictures):
        say("What comes from the package index, by name and licence:")
        say("\n".join(f"  {line}" for line in lines))
    outcome = quickstart(config, values["workdir"], inputs)

    rows = [
        (name, f"{outcome.before[name]:.3g}", f"{after:.3g}", f"{outcome.chance[name]:.3g}")
        for name, after in outcome.after.items()
    ]
    say(table(("held-out concepts" if not own["data"] else "held out", "before", "after", "chance"), rows))
    if outcome.differences is None:
        say(
            "the export was not compared with PyTorch: torch is not installed, or transformers cannot hold the model"
        )
    else:
        differences = [(name, f"{value:.2e}") for name, value in outcome.differences.items()]
        say(table(("largest difference to PyTorch", ""), differences))
    say(f"model: {outcome.folder}\nreport: {outcome.report}\n\nWhat to try next:")
    say("\n".join(f"  {line}" for line in following(outcome.folder, values["workdir"], config.data.test)))


def following(model: Path, workdir: str, test: str) -> list[str]:
    """Commands to try after a quickstart, in the form that works in the current folder."""
    folder, index, source = (shlex.quote(str(path)) for path in (model, Path(workdir, "index"), test))
    lines, query = [], "a fast train"
    for folder_of_pictures, first, labels, asked in (
        ("emoji", "1F431", "cat face,pizza,railway car,snail", "a fast train"),
        ("photographs", "food_fruit_*", "a fruit,a bird,a tool,a musical instrument", "a musical instrument"),
    ):
        place = Path(workdir, folder_of_pictures, "test")
        if not (pictures := sorted(place.glob(f"{first}.png")) or sorted(place.glob("*.png"))):
            continue
        picture, labels, query = shlex.quote(str(pictures[0])), shlex.quote(labels), asked
        lines.append(f"lit-jax classify {picture} --model {folder} --labels {labels}")
    lines += [
        f"lit-jax evaluate --model {folder} --data {source}",
        f"lit-jax embed {source} --model {folder} --output {index}",
        f"lit-jax search {index} --query {shlex.quote(query)}",
        f"lit-jax demo --model {folder} --index {index} --pictures {source}",
    ]
    return [line.replace("lit-jax", shell.as_typed(), 1) for line in lines]
