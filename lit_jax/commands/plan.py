"""lit-jax plan --config FILE --topology v5e:2x4 [--slices N] [--json OUT] [--find-batch | --parameters]"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_jax.commands.flags import Flags, whole
from lit_jax.commands.options import unwritable, write_json
from lit_jax.config import NEEDLESS
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.shown import say

if TYPE_CHECKING:
    from lit_jax.tools.plan.decoding import Host

_GB, _GIB = 1e9, 1 << 30


FLAGS = Flags(
    "plan",
    "What a step of a config costs on a TPU slice, without the slice: memory, arithmetic, traffic, collectives.",
    {
        "topology": ("SLICE", "For instance v5e:2x4 [default: that of the config]."),
        "slices": ("N", "Number of slices [default: 1]."),
        "host-cores": ("N", "Cores of each host, to say whether decoding keeps up."),
        "decode-rate": ("N", "Pictures/s of a core: benchmarks/decode.py measures it."),
        "json": ("FILE", "Write all figures to this file."),
        "find-batch": ("", "Find the largest micro-batch that fits instead."),
        "parameters": ("", "List every parameter instead: lock, lr, decay, dtype, split, bytes."),
    },
    required=("config",),
    empty=NEEDLESS,
    reads_towers=False,
)


def main(args: Sequence[str]) -> None:
    config, values = FLAGS.parse(args)
    if values["parameters"] and values["find-batch"]:
        raise ConfigError("plan: --parameters and --find-batch are two questions; ask one at a time")
    slices = whole("plan: --slices", values["slices"] or "1", 1)
    host = _host(values["host-cores"], values["decode-rate"])
    if values["json"] and (why := unwritable(Path(values["json"]))):
        raise ConfigError(f"plan: --json: {why}")
    without_tpu()
    from lit_jax.tools.plan import parameters
    from lit_jax.tools.plan import plan as planning
    from lit_jax.utils.console import table

    topology = values["topology"] or ""
    if values["parameters"]:
        say(table(parameters.COLUMNS, parameters.parameters(config)))
        return
    if values["find-batch"]:
        best, peaks = planning.find_batch(config, topology, slices=slices)
        rows = [(str(n), f"{peak / _GIB:.2f}" if peak else "no room") for n, peak in sorted(peaks.items())]
        say(table(("micro-batch", "peak GiB"), rows))
        say(f"the largest that fits: --config.micro_batch {best}")
        return
    costs = planning.plan(config, topology, slices=slices, host=host)
    if values["json"]:
        write_json(Path(values["json"]), costs)
    _show(costs, table)


def without_tpu() -> None:
    """Call it before JAX is imported: libtpu then compiles without looking for a TPU, and JAX stays on the CPU."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ["JAX_PLATFORMS"] = "cpu"


def _host(cores: str | None, rate: str | None) -> "Host | None":
    """The host described. Raises ConfigError for one option without the other, and if a number is not positive."""
    if cores is None and rate is None:
        return None
    from lit_jax.tools.plan.decoding import Host

    if cores is None or rate is None:
        raise ConfigError(
            "plan: --host-cores and --decode-rate belong together; give both, or leave out the other"
        )
    return Host(whole("plan: --host-cores", cores, 1), whole("plan: --decode-rate", rate, 1))


def _show(costs: dict[str, Any], table: Callable[..., str]) -> None:
    shape = " x ".join(f"{name}={size}" for name, size in costs["mesh"].items())
    say(f"{costs['topology']}, {costs['chips']} chips ({shape}); all figures are per chip and step\n")
    say(f"batch        {costs['batch_size']} pairs, in micro-batches of {costs['micro_batch']}")
    say(f"             {costs['pairs_a_chip']} pairs per chip at a time\n")
    say(table(("memory", "GiB"), [(k, f"{v / _GIB:.2f}") for k, v in costs["memory"].items()]))
    say(f"{_peak(costs)}\n")
    say(table(("of it", "GiB"), [(k, f"{v / _GIB:.2f}") for k, v in costs["state"].items()]))
    say()
    kernels = costs["executed"] - sum(costs["flops"].values()) - costs["recomputed"]
    arithmetic = {**costs["flops"], "recomputed": costs["recomputed"], "padding in kernels": max(0, kernels)}
    say(table(("arithmetic", "TFLOP"), [(k, f"{v / 1e12:.2f}") for k, v in arithmetic.items()]))
    again, loss = costs["recomputed"] / costs["executed"], costs["loss_share"]
    say(f"{again:.1%} of the arithmetic is recomputation; the loss takes {loss:.1%} of its time\n")
    say(table(("HBM traffic", "GB"), [(k, f"{v / _GB:.1f}") for k, v in costs["traffic"].items()]))
    say()
    rows = [(k, str(c["times"]), f"{c['bytes'] / _GB:.2f}") for k, c in costs["collectives"].items()]
    say(table(("collectives", "times", "GB"), rows or [("none", "0", "0")]))
    say()
    say(table(("roofline", "ms"), [(k, f"{v * 1000:.1f}") for k, v in costs["seconds"].items()]))
    say(f"{costs['binds']} binds: at most {costs['mfu']:.0%} MFU, {costs['pairs_a_second']:,.0f} pairs/s")
    if "decoding" in costs:
        say(_decoding(costs))
    for name, cost in costs["embed"].items():
        say(
            f"\nembedding {name}: {_peak(cost)}; at most {cost['rows_a_second']:,.0f} {name}/s ({cost['binds']} binds)"
        )


def _decoding(costs: dict[str, Any]) -> str:
    """The sentence about the hosts of the slice."""
    found = costs["decoding"]
    if found is None:
        return "no step decodes a picture: the outputs of the image tower are cached"
    return (
        f"{costs['hosts']} hosts decode {found['pictures_a_second']:,.0f} pictures/s: {found['binds']} "
        f"{'bind' if found['binds'] == 'chips' else 'binds'}, at {found['pairs_a_second']:,.0f} pairs/s; a host needs "
        f"{math.ceil(found['cores']):,} cores, and {found['bytes_a_second'] / 1e6:,.1f} MB/s for each kB of a picture"
    )


def _peak(cost: dict[str, Any]) -> str:
    verdict = "fits" if cost["fits"] else "DOES NOT FIT"
    return f"peak {cost['peak'] / _GIB:.2f} of {cost['limit'] / _GIB:.0f} GiB: {verdict}"
