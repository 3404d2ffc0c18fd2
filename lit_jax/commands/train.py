"""lit-jax train --config FILE[:ARG] --workdir DIR [--config.a.b VALUE]"""

from collections.abc import Sequence

from lit_jax.commands.flags import parse


def main(args: Sequence[str]) -> None:
    config, values = parse(
        "train",
        args,
        {"workdir": "Where checkpoints and metrics go; started again on it, the run goes on."},
        required=("config", "workdir"),
    )
    from lit_jax.train import train

    train(config, values["workdir"])
