"""lit-jax train --config FILE[:ARG] --workdir DIR [--config.a.b VALUE]

On every host of a TPU slice, and in every task of a SLURM step, the same line; elsewhere with --coordinator,
--num-processes and --process-id.
"""

import signal
from collections.abc import Sequence

from lit_jax.commands.flags import parse
from lit_jax.errors import ConfigError


def main(args: Sequence[str]) -> None:
    config, values = parse(
        "train",
        args,
        {
            "workdir": "Where checkpoints and metrics go; started again on it, the run goes on.",
            "coordinator": "HOST:PORT of process 0; not needed on a Cloud TPU and under SLURM.",
            "num-processes": "How many processes there are; goes with --coordinator.",
            "process-id": "Which of them this is, from 0; goes with --coordinator.",
            "heartbeat": "Seconds after which a silent process counts as dead [default: 100].",
        },
        required=("config", "workdir"),
        switches={"no-fallback": "End with status 4 if the newest checkpoint is damaged."},
    )
    from lit_jax import distributed
    from lit_jax.train import train

    numbers = {name: _whole(name, values[name]) for name in ("num-processes", "process-id", "heartbeat")}
    distributed.start(
        values["coordinator"],
        numbers["num-processes"],
        numbers["process-id"],
        heartbeat=numbers["heartbeat"] or distributed.HEARTBEAT,
    )
    train(config, values["workdir"], fallback=not values["no-fallback"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # All is saved; what is left is to end well.


def _whole(name: str, value: str | None) -> int | None:
    if value is not None and not value.isdecimal():
        raise ConfigError(f"train: --{name} is {value!r}; wanted a whole number")
    return None if value is None else int(value)
