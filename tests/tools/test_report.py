"""The page about a run: what it shows, that nothing leaves the machine, and how it looks in a browser."""

import json
import re
import shutil
from html import unescape

import numpy as np
import pytest

import lit_jax
from lit_jax.data.sources.contents import captions_of
from lit_jax.data.sources.registry import open_source
from lit_jax.evals.bootstrap import estimate, intervals
from lit_jax.evals.retrieval import KS, Retrieved
from lit_jax.inference.embedder import Embedder
from lit_jax.tools.export import export
from lit_jax.tools.report import album, charts, numbers, report
from lit_jax.tools.report.charts import Line, chart
from lit_jax.train.loop import train
from lit_jax.train.trained import read_trained
from lit_jax.utils.errors import CheckpointError, DataError
from lit_jax.utils.names import DIRECTIONS
from tests import tiny
from tests.browser import SCHEMES, SIZES, Visit, browser, is_dark  # noqa: F401

LONG = "a very long caption of one picture " * 12
ODD = [
    "<script>alert(1)</script> & 'red'",
    "ein großes rotes Quadrat 🟥",
    "مربع أحمر",
    "赤い四角",
    LONG,
    "x" * 90,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    config = tiny.config(folder, steps=4, cache=True, eval_every=2)
    table = folder / "pairs" / "metadata.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    for row, caption in zip(rows, ODD, strict=False):
        row["captions"][0] = caption
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(config, folder / "run")
    return folder


@pytest.fixture(scope="module")
def page(folder):
    path = report(folder / "run")
    assert path == folder / "run" / "report.html"
    return path


@pytest.fixture(scope="module")
def seen(folder):
    run = read_trained(folder / "run")
    return album.look(run, open_source(run.config.data.test), folder / "run")


def words(page):
    """What is on the page, without its tags and with one space between words."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page.read_text("utf-8"))).split())


def test_the_page_shows_what_the_run_wrote(folder, page):
    said, run = words(page), read_trained(folder / "run")
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "test/text_to_image_recall@1" in row][-1]
    ranks = Retrieved.load(folder / "run" / "ranks" / "step_4.npz")
    between = intervals(ranks)
    for name, value in estimate(ranks).items():
        assert last[f"test/{name}"] == value
        form = "{:.1f}" if "rank" in name else "{:.3f}"
        low, high = between[name]
        assert f"{form.format(value)} {form.format(low)} to {form.format(high)}" in said
    assert f"of which {run.tuned:,} are trained" in said and "vit, 3 layers, 32 wide" in said
    assert "4 steps of 8 pairs, 1.33 times through the data" in said and "pairs: 24 records" in said
    losses = [row["loss"] for row in rows if "loss" in row]
    marks = re.findall(r"step (\d): loss ([\d.]+)", page.read_text("utf-8"))
    assert marks == [(str(i + 1), f"{loss:.4g}") for i, loss in enumerate(losses)]
    for title in ("Temperature", "Learning rate", "Recall@10", "Most memory so far"):
        assert title in said
    assert "From step 0" in said and f"jax {lit_jax.utils.environment.machine()['packages']['jax']}" in said
    host = max(row["host_gb"] for row in rows if "host_gb" in row)
    assert f"{host:.2f} GB of the process" in said and 0.1 < host < 50


def test_the_answers_on_the_page_are_those_of_a_dense_sort_with_the_exported_model(folder, seen, tmp_path):
    model = Embedder(export(folder / "run", tmp_path / "model"))
    source = open_source(f"folder:{folder / 'pairs'}")
    captions, owner = captions_of(source)
    scores = model.pictures(source) @ model.texts(captions).T
    assert len(seen.pictures) == len(seen.captions) == len(seen.matrix) == 24
    for i, query in enumerate(seen.pictures):
        order = np.argsort(-scores[i], kind="stable")
        assert (query.record, query.text) == (i, captions[2 * i])
        np.testing.assert_allclose(
            [answer.cosine for answer in query.answers], scores[i, order[:5]], atol=1e-5
        )
        right = scores[i, owner == i].max()
        others = scores[i, owner != i]  # 12 of the 48 captions are distinct, and rounding orders equal ones.
        above, near = ((others > right + margin).sum() for margin in (1e-6, -1e-6))
        assert 1 + above <= query.rank <= 1 + near and near - above < 12
        assert query.right.right and [answer.right for answer in query.answers].count(True) <= 2
    query = seen.captions[-1]
    best = int(np.argmax(scores[:, -1]))
    assert query.text == captions[-1] and query.answers[0].record == best
    np.testing.assert_allclose(seen.matrix, scores[:, ::2], atol=1e-5)
    ranks = [query.rank for query in seen.mistakes]
    assert ranks == sorted(ranks, reverse=True)[:12] and ranks[0] == max(
        query.rank for query in seen.pictures
    )
    assert all(
        query.answers[0].cosine >= query.right.cosine and not query.answers[0].right
        for query in seen.mistakes
    )


def test_the_page_names_no_folder_of_this_machine_and_runs_no_caption(folder, page):
    text = page.read_text("utf-8")
    assert str(folder) not in text and str(folder.parent) not in text
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text
    assert page.stat().st_size < 2_000_000


@pytest.mark.sampled(1)
@pytest.mark.parametrize("head", ["mlp", "glu", "identity"])
def test_a_run_with_a_cache_has_a_page_whatever_its_head_is(tmp_path, head):
    width = 32 if head == "identity" else 16
    train(
        tiny.config(tmp_path, steps=3, cache=True, model__vision_head=head, model__projection_dim=width),
        tmp_path / "run",
    )
    read = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(album, "open_rows", lambda *given, of=album.open_rows: read.append(given) or of(*given))
        page = report(tmp_path / "run").read_text()
    assert read and "are shown:" not in page


def test_what_is_missing_is_named_and_the_rest_is_shown(folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(CheckpointError, match="holds no run"):
        report(bare)
    shutil.copy(folder / "run" / "config.json", bare)
    said = words(report(bare, tmp_path / "elsewhere" / "page.html"))
    assert "No pictures and captions are shown" in said and "no curves" in said and "8 pairs" in said
    assert str(tmp_path) not in said and not list(bare.glob("*.html"))
    (bare / "metrics.jsonl").write_text('{"step": 1, "loss": null, "pairs/s": 8.0}\n{"step": 2, "loss": 1')
    assert "Pairs a second" in words(report(bare)) and "16.0 pairs" not in words(bare / "report.html")
    (bare / "ranks").mkdir()
    (bare / "ranks" / "step_1.npz").write_bytes(b"no")
    with pytest.raises(DataError, match=r"step_1.npz holds no ranks"):
        report(bare)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_in_a_browser_the_page_fits_and_requests_nothing(browser, page, tmp_path, size, scheme):  # noqa: F811
    with Visit(browser, page.as_uri(), size, scheme) as visit:
        assert {url.partition(":")[0] for url in visit.asked} <= {"file", "data"} and visit.said == []
        assert visit.asked.count(page.as_uri()) == 1 == len([u for u in visit.asked if u[:4] == "file"])
        assert visit.fits()
        shot = visit.shot(tmp_path / f"report_{size}_{scheme}.png")
        assert shot.shape[1] == SIZES[size][0] and is_dark(shot) == (scheme == "dark")
        assert visit.page.evaluate("[...document.images].every(one => one.naturalWidth > 0)")
        assert visit.page.locator(".asked article").count() == 24
        visit.page.evaluate("fetch('https://example.com/').catch(e => console.log('refused'))")
        visit.page.wait_for_timeout(50)
        assert not [url for url in visit.asked if url.startswith("http")]  # The page's own policy forbids it.


TEXTS = """{"step": 1, "loss": "low", "pairs/s": "fast", "test/median_rank": "x", "host_gb": [1], "data_wait": {}}
{"step": 1, "loss": 2.0, "pairs/s": 8.0, "skipped": "none", "lr": 1e999, "host_gb": true}
{"step": "2", "loss": 1.0}
{"step": 2, "loss": NaN, "pairs/s": -1, "test/median_rank": 3.0}
"""


def test_metrics_that_hold_text_are_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(TEXTS)
    (tmp_path / "sessions.jsonl").write_text(
        '{"step": "x", "packages": [], "processes": null, "time": 3}\n[]\n'
    )
    rows = numbers.rows(tmp_path)
    assert [drawn.title for drawn in numbers.charts(rows, {})] == ["Loss", "Pairs a second"]
    assert numbers.cost(rows, 8) == (1.0, 8.0, 0.0, 0, None, None)
    endless = [row | {"data_wait": 1e308} for row in [*rows, *rows]]  # Their sum is infinite.
    assert numbers.cost(endless, 8).waited == float("inf")
    assert [(m.name, m.after) for m in numbers.measured(numbers.tested(rows), {}, {})] == [
        ("median_rank", 3.0)
    ]
    assert numbers.sessions(tmp_path) == [(0, "3", "", 1, "")]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.12, 0.87], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([3.0, 3.0], ["3", "4"]),
        ([0.0, 1e-3], ["0", "0.00025", "0.0005", "0.00075", "0.001"]),
        ([-2.0, 14000.0], ["-5,000", "0", "5,000", "10k", "15k"]),
    ],
)
def test_ticks_are_round_and_enclose_all_values(values, ticks):
    drawn = chart("", [Line("", [(float(i), value) for i, value in enumerate(values)])])
    assert [text for _, text in drawn.y_ticks] == ticks
    ys = [mark.y for mark in drawn.curves[0].marks]
    assert drawn.y_ticks[-1][0] <= min(ys) and max(ys) <= drawn.y_ticks[0][0]


def test_a_long_line_is_thinned_by_averages_and_an_empty_one_has_no_chart():
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    thin = chart("", [Line("", points), Line("gone", [])])
    assert len(thin.curves) == 1 and len(thin.curves[0].marks) <= charts.MOST
    assert all("0.5" in mark.says for mark in thin.curves[0].marks)
    assert chart("", [Line("", [])]) is None


def test_of_many_evaluations_those_at_the_points_of_a_chart_have_intervals(tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "MOST", 3)
    (tmp_path / "ranks").mkdir()
    for step in range(1, 8):
        Retrieved(np.arange(1, 5), np.arange(1, 5), np.arange(4)).save(tmp_path / f"ranks/step_{step}.npz")
    between = numbers.bounds(numbers.ranks(tmp_path))
    line = chart("", [Line("recall", [(float(step), 0.5) for step in range(1, 8)])])
    assert [*numbers.ranks(tmp_path)] == [*range(1, 8)] and [*between] == [3, 6, 7]
    assert [mark.says for mark in line.curves[0].marks] == [f"step {step}: recall 0.5" for step in between]


def test_the_recalls_of_each_width_have_a_table_of_their_own():
    names = [f"test/{way}_recall@{k}" for way in DIRECTIONS for k in KS]
    tested = {"step": 4} | {f"{name}{end}": 0.5 for name in names for end in ("", "/8", "/64")}
    tested[f"{names[1]}/8"] = 0.25
    found = numbers.by_width([{"step": 2}, tested])
    assert list(found.items()) == [(8, [0.5, 0.25, 0.5, 0.5, 0.5, 0.5]), (64, [0.5] * 6)]
    assert [row.name for row in numbers.measured([tested], {}, {})] == [name[5:] for name in names]
    assert numbers.by_width([]) == numbers.by_width([{"step": 1, "test/image_to_text_recall@1": 0.5}]) == {}


@pytest.mark.slow
def test_the_page_of_a_run_with_widths_shows_them(tmp_path):
    config = tiny.config(tmp_path, steps=3, cache=True, eval_every=3, model__matryoshka=(4, 16))
    train(config, tmp_path / "run")
    last = numbers.tested(numbers.rows(tmp_path / "run"))[-1]
    assert last["test/image_to_text_recall@1/16"] == last["test/image_to_text_recall@1"]
    row = " ".join(f"{last[f'test/{way}_recall@{k}/4']:.3f}" for way in DIRECTIONS for k in KS)
    said = words(report(tmp_path / "run"))
    assert "Recall by width" in said and f" 4 {row} 16 " in said
