"""The design grid: what differs between cells, what a killed grid goes on from, and what its tables say."""

import dataclasses
import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

import lit_jax.tools.grid.grid
import lit_jax.train.loop
from lit_jax.config import read_config
from lit_jax.evals.evaluate import evaluate
from lit_jax.evals.request import EvalConfig
from lit_jax.tools.export import export
from lit_jax.tools.grid.grid import CELLS, RESULT, grid, run_config
from lit_jax.tools.grid.tables import Grid, Row, as_csv, as_markdown, plot, spread, summary
from lit_jax.utils.errors import CheckpointError, ConfigError, PreemptedError
from lit_jax.workdir.files import claim
from tests import tiny

WHAT = {"cells": ("LU", "uu"), "seeds": (0,)}


def config_of(folder, **changes):
    return ConfigDict(tiny.config(folder, steps=4, cache=True, monitor_every=2, **changes))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    return folder, grid(config_of(folder), folder / "whole", **WHAT)


@pytest.mark.slow
def test_each_cell_is_a_run_whose_result_is_that_of_evaluate_on_its_export(made):
    folder, table = made
    assert [(row.cell, row.seed) for row in table.rows] == [("LU", 0), ("uu", 0)]
    cell = folder / "whole" / "LU-0"
    assert not (cell / "cache").exists() and len(list((folder / "whole/cache").iterdir())) == 1
    model, pairs = export(cell, folder / "export"), f"folder:{folder / 'pairs'}"
    want = evaluate(model, pairs, EvalConfig(text_length=12))
    result = json.loads((cell / RESULT).read_text())
    for name in ("metrics", "intervals", "chance", "queries", "fingerprints"):
        assert result[name] == want[name], name
    assert table.rows[0].metrics == want["metrics"]["retrieval"]


@pytest.mark.slow
def test_a_grid_that_was_stopped_in_a_cell_goes_on_there_and_gives_the_same_tables(made, monkeypatch):
    folder, whole = made
    trained = []
    train, scalars = lit_jax.tools.grid.grid.train, lit_jax.train.loop.metrics.Jsonl.scalars

    def counted(config, workdir, **how):
        trained.append(workdir.name)
        return train(config, workdir, **how)

    def told_to_end_in_the_second_cell(self, step, values):
        if trained == ["LU-0", "uu-0"] and step == 2:
            signal.raise_signal(signal.SIGTERM)
        scalars(self, step, values)

    monkeypatch.setattr(lit_jax.tools.grid.grid, "train", counted)
    monkeypatch.setattr(lit_jax.train.loop.metrics.Jsonl, "scalars", told_to_end_in_the_second_cell)
    with pytest.raises(PreemptedError):
        grid(config_of(folder), folder / "stopped", **WHAT)
    assert json.loads((folder / "stopped/grid.json").read_text())["runs"][0]["cell"] == "LU"
    before = (folder / "stopped/LU-0" / RESULT).stat().st_mtime_ns
    assert grid(config_of(folder), folder / "stopped", **WHAT) == whole
    assert trained == ["LU-0", "uu-0", "uu-0"]
    assert (folder / "stopped/LU-0" / RESULT).stat().st_mtime_ns == before
    for name in ("grid.json", "grid.csv", "grid.md"):
        assert (folder / "stopped" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    steps = [
        json.loads(line)["step"]
        for line in (folder / "stopped/uu-0/metrics.jsonl").read_text().splitlines()
        if "loss" in line
    ]
    assert steps == [1, 2, 3, 4]  # The third after the second, and none twice.

    (folder / "stopped/uu-0" / RESULT).write_text("{")
    with pytest.raises(CheckpointError, match=r"is damaged .*: remove it to have the cell measured"):
        grid(config_of(folder), folder / "stopped", **WHAT)
    with pytest.raises(ConfigError, match=r"holds a run with another config \(batch_size: 8, now 16"):
        grid(config_of(folder, batch_size=16), folder / "stopped", **WHAT)


def test_a_cell_with_more_steps_is_continued_and_measured_again(tmp_path, monkeypatch):
    steps = []

    def more(folder, steps):
        return ConfigDict(tiny.config(folder, steps=steps, optim__schedule="constant"))

    def trained(config, folder, **_):
        steps.append(config["steps"])
        folder.mkdir(parents=True, exist_ok=True)
        claim(read_config(config), folder)

    module = lit_jax.tools.grid.grid
    monkeypatch.setattr(module, "train", trained)
    monkeypatch.setattr(
        module, "read_trained", lambda folder: SimpleNamespace(module=None, params=None, processor=None)
    )
    tables = {"metrics": {"retrieval": {}}, "chance": {"retrieval": {}}, "fingerprints": {"retrieval": ""}}
    monkeypatch.setattr(module, "evaluate", lambda *_: tables)
    monkeypatch.setattr(module, "write", lambda *_: None)
    for wanted in (4, 4, 6):
        grid(more(tmp_path, wanted), tmp_path / "grid", cells=("uu",), seeds=(0,))
    assert steps == [4, 6]
    with pytest.raises(ConfigError, match=r"has done 6 steps, and config\.steps is 4"):
        grid(more(tmp_path, 4), tmp_path / "grid", cells=("uu",), seeds=(0,))
    assert (tmp_path / "grid/uu-0" / RESULT).is_file()


def test_cells_differ_in_locks_rates_and_cache_alone(tmp_path):
    base = read_config(config_of(tmp_path, optim__lr_multipliers=((".*/bias", 2.0),)))
    configs = {cell: run_config(base, cell, 3) for cell in CELLS}
    assert len(CELLS) == 9 and all(
        configs[cell].model.lock_towers == cell and configs[cell].seed == 3 for cell in CELLS
    )
    assert [cell for cell in CELLS if configs[cell].cache] == ["LL", "LU", "Lu"]
    assert configs["LL"].optim == base.optim
    assert configs["Uu"].optim.lr_multipliers == ((".*/bias", 2.0), ("vision/.*", 0.1), ("text/.*", 0.3))
    same = {"model": base.model, "optim": base.optim, "cache": True, "seed": 0, "data": base.data}
    assert all(dataclasses.replace(config, **same) == base for config in configs.values())


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"cells": ("LX",)}, "'LX' is not a cell of the grid; wanted some of LL, LU"),
        ({"cells": ("LU", "LU")}, "cells 'LU, LU': wanted at least one, and each only once"),
        ({"cells": ("LU",), "seeds": ()}, "seeds '': wanted at least one"),
    ],
)
def test_a_grid_of_something_else_is_refused_before_anything_is_made(what, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        grid(None, tmp_path / "grid", **what)
    assert not (tmp_path / "grid").exists()


def of(k1, k5):
    names = [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    return dict(zip(names, (k1, k5, 0.9, k1, k5 + 0.2, 1.0), strict=True))


def test_the_tables_hold_mean_and_range_of_every_cell():
    rows = [Row("uu", 0, of(0.0, 0.1)), Row("LU", 0, of(0.1, 0.2)), Row("LU", 1, of(0.3, 0.5))]
    table = Grid(rows, of(0.01, 0.02), "abc")
    text = as_markdown(table)
    assert "| locked |  | .450 (.300 to .600) |  |\n| from scratch |  |  | .200 |" in text
    assert "| LU | 2 | .200 (.100 to .300) | .350 (.200 to .500) | .900 (.900 to .900) |" in text
    assert text.rstrip().endswith("| chance |  | .010 | .020 | .900 | .010 | .220 | 1.000 |")
    assert summary(table)["cells"]["LU"]["image_to_text_recall@5"] == spread([0.2, 0.5])._asdict()
    header, *lines = as_csv(table).splitlines()
    assert header == ",".join(("cell", "seed", *table.chance))
    assert [line.split(",")[:3] for line in lines] == [
        ["uu", "0", "0.0"],
        ["LU", "0", "0.1"],
        ["LU", "1", "0.3"],
    ]


def test_the_plot_is_a_picture_with_something_on_it():
    pytest.importorskip("matplotlib", reason="an extra")
    import io

    from PIL import Image

    picture = np.asarray(
        Image.open(io.BytesIO(plot(Grid([Row("LU", 0, of(0.1, 0.2))], of(0.01, 0.02), "abc"))))
    )
    assert picture.shape == (432, 768, 4) and len(np.unique(picture.reshape(-1, 4), axis=0)) > 50
