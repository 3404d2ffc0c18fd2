"""lit-jax plan --config FILE --topology v5e:2x4 [--slices N] [--json OUT] [--parameters]"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from lit_jax.commands.flags import parse
from lit_jax.errors import ConfigError

_GB, _GIB = 1e9, 1 << 30


def main(args: Sequence[str]) -> None:
    args, table_only = [a for a in args if a != "--parameters"], "--parameters" in args
    config, values = parse(
        "plan",
        args,
        {
            "topology": "TPU slice, for instance v5e:2x4 [default: the config's own].",
            "slices": "How many of them [default: 1].",
            "json": "Write all figures to this file.",
            "parameters": "Instead, the table of every parameter: lock, lr, decay, dtype, split, bytes.",
        },
        required=("config",),
    )
    # libtpu compiles without a TPU if it is not sent to look for one, and JAX itself stays on the CPU.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ["JAX_PLATFORMS"] = "cpu"
    from lit_jax import plan as door
    from lit_jax.terminal import table

    if table_only:
        print(table(door.COLUMNS, door.parameters(config)))
        return
    slices = values["slices"] or "1"
    if not slices.isdigit() or slices == "0":
        raise ConfigError(f"plan: --slices is {slices!r}; wanted a number of slices")
    found = door.plan(config, values["topology"] or "", slices=int(slices))
    if values["json"]:
        Path(values["json"]).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    shape = " x ".join(f"{name}={size}" for name, size in found["mesh"].items())
    print(f"{found['topology']}, {found['chips']} chips ({shape}); all figures are a chip and a step\n")
    print(f"batch        {found['batch_size']} pairs, in micro-batches of {found['micro_batch']}")
    print(f"             {found['pairs_a_chip']} pairs a chip at a time\n")
    print(table(("memory", "GiB"), [(k, f"{v / _GIB:.2f}") for k, v in found["memory"].items()]))
    verdict = "fits" if found["fits"] else "DOES NOT FIT"
    print(f"peak {found['peak'] / _GIB:.2f} of {found['limit'] / _GIB:.0f} GiB: {verdict}\n")
    print(table(("arithmetic", "TFLOP"), [(k, f"{v / 1e12:.2f}") for k, v in found["flops"].items()]))
    print()
    print(table(("HBM traffic", "GB"), [(k, f"{v / _GB:.1f}") for k, v in found["traffic"].items()]))
    print()
    rows = [(k, str(c["times"]), f"{c['bytes'] / _GB:.2f}") for k, c in found["collectives"].items()]
    print(table(("collectives", "times", "GB"), rows or [("none", "0", "0")]))
    print()
    print(table(("roofline", "ms"), [(k, f"{v * 1000:.1f}") for k, v in found["seconds"].items()]))
    print(f"{found['binds']} binds: at most {found['mfu']:.0%} MFU, {found['pairs_a_second']:,.0f} pairs/s")
