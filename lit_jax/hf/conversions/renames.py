"""Tensors of another project under Hugging Face's names: tables, and the code that converts a tensor when it is read.

A row is `name there | Hugging Face's name | axes`, as in `models.weight_map`: `{l}` stands for a layer, on both sides,
and `{a,b}` for several tensors that are one on the other side, where they are the leading axis g.
"""

import dataclasses
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from lit_jax.hf.model_folder import Tensors
from lit_jax.models.weight_map import Row, listed, outer_prefix, table
from lit_jax.utils.errors import WeightError, first_line
from lit_jax.utils.log_once import log_once

log = logging.getLogger(__name__)

Rows = tuple[Row, ...]
Made = Mapping[str, Callable[[], np.ndarray]]  # Tensors that are made from several others, or from none.


def rows(text: str) -> Rows:
    """Parses a table; empty lines only separate."""
    return table(text).rows


def same(names: Iterable[str]) -> Rows:
    """The rows of tensors that have the same names and axes here."""
    return tuple(Row(name, name, "...") for name in sorted(names))


def under(rows: Rows, theirs: str, hf: str) -> Rows:
    """The same rows with prefixes: `theirs` for the names there, and `hf` for Hugging Face's."""
    return tuple(dataclasses.replace(row, hf=theirs + row.hf, jax=hf + row.jax) for row in rows)


def bound(rows: Rows, depth: int, **sizes: int) -> Rows:
    """A row for each of `depth` layers; `sizes` are those of the axes that the patterns split."""
    known = tuple(sizes.items())
    return tuple(
        dataclasses.replace(
            row, hf=row.hf.replace("{l}", str(layer)), jax=row.jax.replace("{l}", str(layer)), sizes=known
        )
        for row in rows
        for layer in range(depth if "{l}" in row.hf + row.jax else 1)
    )


def converted(
    where: Path,
    source: Mapping[str, np.ndarray],
    rows: Rows,
    *,
    made: Made,
    dropped: str = r"(?!)",
) -> Tensors:
    """The tensors of `source` under the right-hand names of `rows`, each converted on access.

    `made` are those that are not in the table; names that match the regex `dropped` are left out. Raises WeightError,
    whose message begins with `where`, unless the other names are exactly those in the table.
    """
    wanted = [name for row in rows for name in row.hf_names()]
    left = {name for name in source if not re.fullmatch(dropped, name)} - set(wanted)
    if (missing := set(wanted) - set(source)) or left:
        raise WeightError(
            f"{where}: missing from the checkpoint: {listed(missing)}; not in the table: {listed(left)}"
        )
    file = _Moved(where, source, rows, made)
    return Tensors({name: (file, name) for name in file.keys()})  # noqa: SIM118 - not a mapping


def returned(rows: Rows, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `converted`: tensors with the right-hand names of `rows` under the left-hand ones."""
    back: dict[str, np.ndarray] = {}
    for row in rows:
        parts = [tensors[name] for name in row.jax_names()]
        moved = row.to_hf(np.stack(parts) if len(parts) > 1 else parts[0])
        names = row.hf_names()
        back |= zip(names, moved if len(names) > 1 else [moved], strict=True)
    return back


class _Moved:
    """A `File` of the tensors of another mapping, converted as the rows say."""

    def __init__(self, where: Path, source: Mapping[str, np.ndarray], rows: Rows, made: Made) -> None:
        self._where, self._source, self._made = where, source, made
        self._rows = {name: (row, i) for row in rows for i, name in enumerate(row.jax_names())}

    def keys(self) -> list[str]:
        return [*self._rows, *self._made]

    def get_tensor(self, name: str) -> np.ndarray:
        if name in self._made:
            return self._made[name]()
        row, i = self._rows[name]
        parts = [self._source[there] for there in row.hf_names()]
        try:
            moved = row.to_jax(np.stack(parts) if len(parts) > 1 else parts[0])
        except Exception as error:  # einops raises its own kind of error, which is no ValueError.
            shapes = " and ".join(str(part.shape) for part in parts)
            raise WeightError(
                f"{self._where}: tensor {' and '.join(row.hf_names())} has shape {shapes}, which does not fit the "
                f"config ({first_line(error)}); the config and the weights are of two models"
            ) from error
        return moved[i] if len(row.jax_names()) > 1 else moved


def biases_without_keys(
    joined: Callable[[int], np.ndarray], depth: int, queries: str, values: str
) -> dict[str, Callable[[], np.ndarray]]:
    """The biases of queries and values, as `Made`, from `joined(layer)` [3D], which has those of the keys in between.

    In `queries` and `values`, names in Hugging Face's layout, `{l}` stands for a layer.
    """
    return {
        name.replace("{l}", str(layer)): partial(_third, joined, layer, i)
        for layer in range(depth)
        for name, i in ((queries, 0), (values, 2))
    }


def _third(joined: Callable[[int], np.ndarray], layer: int, i: int) -> np.ndarray:
    biases = joined(layer)
    width = len(biases) // 3
    return biases[i * width : (i + 1) * width]


def inner(where: Path, source: Tensors, marks: Collection[str]) -> Tensors:
    """The tensors of the model that has the names `marks`, without the prefix of a larger model around it.

    Tensors without that prefix are left out, as the log says, with `where`. Raises WeightError if the larger model
    holds several such models.
    """
    outer = outer_prefix(source, marks)
    own = {name: name.removeprefix(outer) for name in source if name.startswith(outer)}
    if len(own) < len(source):
        others = listed(set(source) - own.keys())
        log_once(log, logging.INFO, f"{where}: left out, since they do not lie below {outer!r}: {others}")
    return source.renamed(own)


def count(names: Iterable[str], pattern: str) -> int:
    """The number of layers: how many different numbers the group of the regex `pattern` matches."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})
