"""lit-jax align VISION TEXT SOURCE --workdir DIR [--layers] [--config.steps N]"""

from collections.abc import Sequence

from lit_jax.commands.config_file import shipped_config
from lit_jax.commands.flags import Flags
from lit_jax.config import NEEDLESS
from lit_jax.utils.shown import say

FLAGS = Flags(
    "align",
    "Train heads between frozen towers: features, initialisation in closed form, heads, evaluation, report, "
    "export. With several towers every pair is tried, and each tower runs over the data once.",
    {
        "workdir": ("DIR", "Where everything is written; a second start continues there."),
        "vision": ("DIR_OR_ID", "Image tower, or several with commas between them."),
        "text": ("DIR_OR_ID", "Text tower, or several."),
        "layers": ("", "Try the outputs of inner layers too, and cut each tower after the best one."),
        "data": ("SOURCE", "Pairs, of which a fifth is held out [default: data.train and data.test]."),
    },
    required=("workdir", "vision", "text"),
    config=f"{shipped_config('frozen_towers.py')}:align",
    empty=NEEDLESS,
    arguments=("vision", "text", "data"),
)


def main(args: Sequence[str]) -> None:
    config, values = FLAGS.parse(args)
    from lit_jax.tools.align.align import align
    from lit_jax.tools.align.pairs import as_markdown

    visions, texts = (
        [name.strip() for name in values[tower].split(",") if name.strip()] for tower in ("vision", "text")
    )
    result = align(config, values["workdir"], visions, texts, values["data"] or "", layers=values["layers"])
    say(as_markdown(result.pairs), end="")
    say(f"model: {result.export}\nreport: {result.report}")
