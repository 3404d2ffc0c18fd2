"""lit-jax inspect SOURCE"""

from pathlib import Path
from typing import Any

import click

from lit_jax.commands import options
from lit_jax.utils.shown import in_line, say


@click.command()
@click.argument("source", type=click.Path())
@click.option("--caption", metavar="NAME", help="Feature, column or key of captions [default: detected].")
@click.option(
    "--tokenizer",
    metavar="DIR",
    type=click.Path(),
    help="Folder of a tokenizer that counts tokens [default: words are counted].",
)
@click.option(
    "--text-length",
    metavar="N",
    type=click.IntRange(min=2),
    default=64,
    show_default=True,
    help="Tokens that are kept of a text.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Records to look at.",
)
@click.option("--all", "everything", is_flag=True, help="Look at every record.")
@click.option(
    "--sheet",
    metavar="FILE",
    type=options.OutputFile(),
    help="Write 16 of the pairs as one picture to this PNG file.",
)
@options.json_file("Write the result to this file.")
def main(
    source: str,
    caption: str | None,
    tokenizer: str | None,
    text_length: int,
    limit: int,
    everything: bool,
    sheet: Path | None,
    json_path: Path | None,
) -> None:
    """Count, measure and show what is in a source."""
    from lit_jax.data.sources.registry import open_source
    from lit_jax.data.tools.summary import summarize
    from lit_jax.utils.console import progress, table
    from lit_jax.utils.errors import DataError

    count_tokens = None
    if tokenizer:
        from lit_jax.data.transforms.tokenizer import make_count_tokens
        from lit_jax.hf.processor import load_tokenizer

        count_tokens = make_count_tokens(load_tokenizer(tokenizer), text_length)
    opened = open_source(source, caption=caption)
    with progress("records") as report:
        summary = summarize(
            opened,
            count_tokens=count_tokens,
            text_length=text_length,
            limit=None if everything else limit,
            sheet=sheet,
            progress=report,
        )
    if caption and summary["without_caption"] == 1:
        raise DataError(
            f"{summary['source']}: none of {summary['looked_at']:,} records has {caption!r}; leave out --caption to "
            "see which captions there are"
        )
    say(
        table((summary["source"], "found"), [(name.replace("_", " "), text) for name, text in _rows(summary)])
    )
    for remark in summary["remarks"]:
        say(in_line(f"{summary['source']}: {remark}"))
    if sheet:
        say(f"wrote {sheet}")
    if json_path:
        options.write_json(json_path, summary)


def _rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in summary.items():
        if name in ("source", "sheet", "remarks") or (
            name in ("classes", "labelled", "without_caption") and not value
        ):
            continue
        if name == "reasons":
            rows += [(f"  {reason[:70]}", str(times)) for reason, times in value.items()]
        elif isinstance(value, dict):
            rows.append((name, ", ".join(f"{key} {item}" for key, item in value.items())))
        elif name in ("broken", "same_picture", "cut", "without_caption", "labelled"):
            rows.append((name, f"{value:.2%}"))
        else:
            rows.append((name, f"{value:,}" if isinstance(value, int) else f"{value:.3g}"))
    return rows
