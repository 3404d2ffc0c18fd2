"""lit-jax plan --config FILE --topology v5e:2x4 [--slices N] [--json OUT] [--find-batch | --parameters]"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lit_jax.commands.flags import Flags
from lit_jax.utils.errors import ConfigError

_GB, _GIB = 1e9, 1 << 30


FLAGS = Flags(
    "plan",
    "What a step of a config costs on a TPU slice that need not be there: memory, arithmetic, traffic, collectives.",
    {
        "topology": ("SLICE", "For instance v5e:2x4 [default: the config's own]."),
        "slices": ("N", "How many of them [default: 1]."),
        "json": ("FILE", "Write all figures to this file."),
        "find-batch": ("", "Instead, the largest micro-batch that fits."),
        "parameters": ("", "Instead, the table of every parameter: lock, lr, decay, dtype, split, bytes."),
    },
    required=("config",),
)


def main(args: Sequence[str]) -> None:
    config, values = FLAGS.parse(args)
    if values["parameters"] and values["find-batch"]:
        raise ConfigError("plan: --parameters and --find-batch are two questions; ask one at a time")
    # libtpu compiles without a TPU if it is not sent to look for one, and JAX itself stays on the CPU.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ["JAX_PLATFORMS"] = "cpu"
    from lit_jax.tools.plan import parameters
    from lit_jax.tools.plan import plan as door
    from lit_jax.utils.console import table

    if values["parameters"]:
        print(table(parameters.COLUMNS, parameters.parameters(config)))
        return
    slices = values["slices"] or "1"
    if not slices.isdigit() or slices == "0":
        raise ConfigError(f"plan: --slices is {slices!r}; wanted a number of slices")
    if values["find-batch"]:
        best, peaks = door.find_batch(config, values["topology"] or "", slices=int(slices))
        seen = [(str(n), f"{peak / _GIB:.2f}" if peak else "no room") for n, peak in sorted(peaks.items())]
        print(table(("micro-batch", "peak GiB"), seen))
        print(f"the largest that fits: --config.micro_batch {best}")
        return
    found = door.plan(config, values["topology"] or "", slices=int(slices))
    if values["json"]:
        Path(values["json"]).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    _show(found, table)


def _show(found: dict[str, Any], table: Callable[..., str]) -> None:
    shape = " x ".join(f"{name}={size}" for name, size in found["mesh"].items())
    print(f"{found['topology']}, {found['chips']} chips ({shape}); all figures are a chip and a step\n")
    print(f"batch        {found['batch_size']} pairs, in micro-batches of {found['micro_batch']}")
    print(f"             {found['pairs_a_chip']} pairs a chip at a time\n")
    print(table(("memory", "GiB"), [(k, f"{v / _GIB:.2f}") for k, v in found["memory"].items()]))
    print(f"{_peak(found)}\n")
    kernels = found["executed"] - sum(found["flops"].values()) - found["recomputed"]
    arithmetic = {**found["flops"], "recomputed": found["recomputed"], "padding in kernels": max(0, kernels)}
    print(table(("arithmetic", "TFLOP"), [(k, f"{v / 1e12:.2f}") for k, v in arithmetic.items()]))
    print(f"{found['recomputed'] / found['executed']:.1%} of the arithmetic is recomputation\n")
    print(table(("HBM traffic", "GB"), [(k, f"{v / _GB:.1f}") for k, v in found["traffic"].items()]))
    print()
    rows = [(k, str(c["times"]), f"{c['bytes'] / _GB:.2f}") for k, c in found["collectives"].items()]
    print(table(("collectives", "times", "GB"), rows or [("none", "0", "0")]))
    print()
    print(table(("roofline", "ms"), [(k, f"{v * 1000:.1f}") for k, v in found["seconds"].items()]))
    print(f"{found['binds']} binds: at most {found['mfu']:.0%} MFU, {found['pairs_a_second']:,.0f} pairs/s")
    for name, cost in found["embed"].items():
        print(
            f"\nembedding {name}: {_peak(cost)}; at most {cost['rows_a_second']:,.0f} {name}/s ({cost['binds']} binds)"
        )


def _peak(cost: dict[str, Any]) -> str:
    verdict = "fits" if cost["fits"] else "DOES NOT FIT"
    return f"peak {cost['peak'] / _GIB:.2f} of {cost['limit'] / _GIB:.0f} GiB: {verdict}"
