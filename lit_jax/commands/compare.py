"""lit-jax compare A B"""

from pathlib import Path

import click

from lit_jax.commands import options
from lit_jax.utils.shown import say


@click.command()
@click.argument("first", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("second", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@options.json_file("Write the comparison to this file.")
@click.option(
    "--strict", is_flag=True, help="Refuse models that preprocess pictures or cut texts differently."
)
def main(first: Path, second: Path, json_path: Path | None, strict: bool) -> None:
    """Compare two results of lit-jax evaluate --json that were measured under the same protocol.

    Differences are SECOND minus FIRST, with 95% intervals; * marks an interval that does not contain zero.
    """
    from lit_jax.evals.compare import compare
    from lit_jax.utils.console import table

    compared = compare(first, second, strict=strict)
    for task, metrics in compared.items():
        rows = []
        for name, row in metrics.items():
            low, high = row["interval"]
            mark = "*" if low > 0 or high < 0 else ""
            values = (f"{row['first']:.4g}", f"{row['second']:.4g}", f"{row['difference']:+.4g}")
            rows.append((name, *values, f"{low:+.4g} to {high:+.4g}", mark))
        how = "paired" if all(row["paired"] for row in metrics.values()) else "unpaired"
        say(table((task, "first", "second", "difference", f"95% ({how})", ""), rows))
    if json_path:
        options.write_json(json_path, compared)
