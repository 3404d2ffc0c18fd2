"""lit-jax train --config FILE[:ARG] --workdir DIR [--config.a.b VALUE]

On every host of a TPU slice, and in every task of a SLURM step, the same line; elsewhere with --coordinator,
--num-processes and --process-id.
"""

import signal
from collections.abc import Sequence

from lit_jax.commands.flags import Flags
from lit_jax.utils.errors import ConfigError

FLAGS = Flags(
    "train",
    "Train; started again on the same workdir it goes on where it stopped. On every host of a TPU slice, and in "
    "every task of a SLURM step, the same line.",
    {
        "workdir": ("DIR", "Of checkpoints and metrics: a folder, or gs://BUCKET/DIR."),
        "coordinator": ("HOST:PORT", "Of process 0; not needed on a Cloud TPU, under SLURM."),
        "num-processes": ("N", "How many there are; goes with --coordinator."),
        "process-id": ("N", "Which this is, from 0; goes with --coordinator."),
        "heartbeat": ("SECONDS", "Of silence: a process counts as dead [default: 100]."),
        "no-fallback": ("", "End with status 4 if the newest checkpoint is damaged."),
    },
    required=("config", "workdir"),
)


def main(args: Sequence[str]) -> None:
    config, values = FLAGS.parse(args)
    from lit_jax.parallel import distributed
    from lit_jax.train.loop import train

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
