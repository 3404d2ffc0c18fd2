"""lit-jax train --config FILE[:ARG] --workdir DIR [--config.a.b VALUE]

Run the same line on every host of a TPU slice and in every task of a SLURM step; elsewhere, add --coordinator,
--num-processes and --process-id.
"""

from collections.abc import Sequence

from lit_jax.commands.flags import Flags, whole

FLAGS = Flags(
    "train",
    "Train. Started again on the same workdir, a run continues where it stopped. Run the same line on every host of a "
    "TPU slice and in every task of a SLURM step.",
    {
        "workdir": ("DIR", "Checkpoints and metrics: a folder, or gs://BUCKET/DIR."),
        "coordinator": ("HOST:PORT", "Address of process 0; not on a Cloud TPU or SLURM."),
        "num-processes": ("N", "Number of processes; goes with --coordinator."),
        "process-id": ("N", "Which of them this is, from 0; goes with --coordinator."),
        "heartbeat": ("SECONDS", "A process silent for so long is lost [default: 100]."),
        "no-fallback": ("", "End with status 4 if the newest checkpoint is damaged."),
        "profile": ("FIRST:LAST", "Write a trace of these steps for TensorBoard."),
    },
    required=("config", "workdir"),
)


def main(args: Sequence[str]) -> None:
    config, values = FLAGS.parse(args)
    numbers = {
        name: None if values[name] is None else whole(f"train: --{name}", values[name], least)
        for name, least in (("num-processes", 1), ("process-id", 0), ("heartbeat", 1))
    }
    from lit_jax.parallel import distributed
    from lit_jax.train.loop import train

    distributed.start(
        values["coordinator"],
        numbers["num-processes"],
        numbers["process-id"],
        heartbeat=numbers["heartbeat"] or distributed.HEARTBEAT,
    )
    train(config, values["workdir"], fallback=not values["no-fallback"], profile=values["profile"] or "")
