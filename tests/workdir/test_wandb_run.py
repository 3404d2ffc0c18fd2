"""A run on Weights & Biases has its metrics, config, checkpoints and report, and goes on under one id."""

import json
import sys
from types import SimpleNamespace

import pytest

from lit_jax.commands.report import main as report
from lit_jax.train.loop import train
from lit_jax.utils.errors import ConfigError
from lit_jax.workdir.wandb_run import ID, WandbRun
from tests import tiny


class Package:
    """Stands in for the wandb package and records what a run asks of it."""

    class errors:
        class Error(Exception): ...

    def __init__(self):
        self.runs, self.fails = [], False

    def Settings(self, **settings):
        return settings

    def Html(self, page, inject):
        return f"page of {len(page)}"

    def init(self, **given):
        if self.fails:
            raise self.errors.Error("no API key\nconfigured")
        rows, ends = [], []
        run = SimpleNamespace(given=given, rows=rows, ends=ends, summary={}, define_metric=lambda *_, **__: 0)
        run.log, run.finish = rows.append, lambda exit_code=0: ends.append(exit_code)
        self.runs.append(run)
        return run


@pytest.fixture
def package(monkeypatch):
    package = Package()
    monkeypatch.setitem(sys.modules, "wandb", package)
    return package


@pytest.mark.slow
def test_a_run_and_its_report_share_one_id_and_the_rows_of_the_metrics_file(package, tmp_path):
    config = tiny.config(tmp_path, steps=2, log_every=1, eval_every=2, optim__warmup_steps=1, wandb="emoji")
    workdir = tmp_path / "run"
    train(config, workdir)
    (run,) = package.runs
    assert run.given["project"] == "emoji" and run.given["name"] == "run" and run.given["dir"] == workdir
    assert run.given["config"]["batch_size"] == config["batch_size"]
    written = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert run.rows == written and run.ends == [0]
    assert run.summary["checkpoints"] == [f"{workdir}/checkpoints/2"]

    report(["--workdir", str(workdir)], standalone_mode=False)
    again = package.runs[1]
    assert again.given["id"] == run.given["id"] == (workdir / ID).read_text()
    assert again.rows == [{"report": f"page of {len((workdir / 'report.html').read_text())}"}]


def test_a_run_that_fails_is_marked_as_failed(package, tmp_path):
    writer = WandbRun("emoji", tmp_path, {}, lambda: [3])
    with pytest.raises(ZeroDivisionError):
        try:
            raise ZeroDivisionError
        finally:
            writer.close()
    assert package.runs[0].ends == [1]


def test_the_error_of_a_run_that_cannot_begin_says_what_to_do(package, monkeypatch, tmp_path):
    package.fails = True
    with pytest.raises(
        ConfigError, match=r"\(no API key\); log in with `wandb login`, set WANDB_MODE=offline"
    ):
        WandbRun("emoji", tmp_path, {}, list)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"not installed; pip install \"lit_jax\[wandb\]\""):
        WandbRun("emoji", tmp_path, {}, list)


def test_the_real_package_writes_an_offline_run_that_is_resumed(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for step in (1, 2):
        writer = WandbRun("emoji", tmp_path, {"steps": 2}, lambda: [1])
        writer.scalars(step, {"loss": 0.5, "test/text_to_image_recall@1": float("nan")})
        writer.close()
    name = (tmp_path / ID).read_text()
    assert len([*(tmp_path / "wandb").glob(f"offline-run-*-{name}")]) in (1, 2)
