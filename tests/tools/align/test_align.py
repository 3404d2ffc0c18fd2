"""`align`: every pair of frozen towers over the same features, and the best of them as a model."""

import json
from pathlib import Path

import pytest

import lit_jax
from lit_jax.commands import align as command
from lit_jax.config import default_config, read_config
from lit_jax.tools.align import align as tool
from lit_jax.tools.align import pairs as tables
from lit_jax.tools.report import report
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny

STEPS = ("--config.steps", "4", "--config.optim.warmup_steps", "1", "--config.model.projection_dim", "16")
SMALL = (*STEPS, "--config.batch_size", "4096", "--config.data.text_length", "12")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("align")
    tiny.write_towers(folder)
    tiny.write_tower(folder / "swin", tiny.SWIN, seed=3)
    (folder / "swin" / "preprocessor_config.json").write_bytes(
        (folder / "v" / "preprocessor_config.json").read_bytes()
    )
    tiny.write_pairs(folder / "pairs", n=40)
    return folder


def run(place, capsys, *args):
    command.main([*map(str, args), *SMALL])
    return capsys.readouterr().out


@pytest.mark.slow
def test_every_pair_is_tried_and_the_best_is_exported(place, capsys, monkeypatch):
    filled = []
    plain = tool.prepare
    monkeypatch.setattr(tool, "prepare", lambda *args: filled.append(1) or plain(*args))
    source, workdir = f"folder:{place / 'pairs'}", place / "two"
    said = run(place, capsys, f"{place / 'v'},{place / 'swin'}", place / "t", source, "--workdir", workdir)
    assert len(filled) == 2
    result = json.loads((workdir / tables.RESULTS).read_text())
    pairs = result["pairs"]
    assert {pair["vision"] for pair in pairs} == {str(place / "v"), str(place / "swin")}
    assert [tables.Pair(**pair).recall for pair in pairs] == sorted(
        (tables.Pair(**pair).recall for pair in pairs), reverse=True
    )
    # A cache for each tower and each of both parts of the data, the text tower's used twice.
    assert len(list((workdir / tool.CACHE).glob("*.npy"))) == 6
    assert len(list((workdir / tool.CACHE).glob("*.captions"))) == 2
    assert (workdir / tables.TABLE).read_text() in said and "Rank correlation" in said
    for pair in pairs:  # The page of each run, the best one's made by `align` itself.
        page = workdir / pair["workdir"] / "report.html"
        assert page.exists() == (pair is pairs[0])
        report(workdir / pair["workdir"])
        text = page.read_text("utf-8")
        assert str(place) not in text
        for one in tables.predictions(tables.read(workdir)):
            assert one.sentence(2) in text
        for other, cells in zip(pairs, tables.rows(tables.read(workdir)), strict=True):
            tag = "<b>%s</b>" if other is pair else "%s"
            assert all(f'<td class="words">{tag % cell}</td>' in text for cell in cells[2:])
    module, _ = lit_jax.load(workdir / tool.EXPORT)
    best = read_config(json.loads((workdir / pairs[0]["workdir"] / "config.json").read_text()))
    assert module.config.vision_type == ("vit" if best.model.vision == str(place / "v") else "swin")
    poolings = {
        pair["vision"]: json.loads((workdir / pair["workdir"] / "config.json").read_text())["model"][
            "vision_pooling"
        ]
        for pair in pairs
    }
    assert poolings == {str(place / "v"): "cls_mean", str(place / "swin"): "mean"}  # Swin has no CLS token.

    before = (workdir / pairs[0]["workdir"] / "metrics.jsonl").read_bytes()
    again = run(place, capsys, f"{place / 'v'},{place / 'swin'}", place / "t", source, "--workdir", workdir)
    assert again == said and (workdir / pairs[0]["workdir"] / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("towers", "error", "message"),
    [
        (("{0}/v,{0}/v", "{0}/t"), ConfigError, "image towers .* each only once"),
        (("{0}/v", ","), ConfigError, "text towers ''"),
        (("{0}/none", "{0}/t"), WeightError, "none"),
    ],
)
def test_towers_that_cannot_be_paired_are_refused_at_once(place, capsys, towers, error, message):
    named = [tower.format(place) for tower in towers]
    with pytest.raises(error, match=message):
        run(place, capsys, *named, f"folder:{place / 'pairs'}", "--workdir", place / "refused")
    assert not (place / "refused" / "data").exists()


@pytest.mark.parametrize("kind", [str, Path])
def test_a_single_tower_need_not_be_in_a_list(place, kind):
    with pytest.raises(WeightError, match="none does not exist"):
        tool.align(default_config(), place / "single", kind(place / "v"), kind(place / "none"), "folder:x")


def test_without_data_or_towers_it_says_what_is_missing(place, capsys):
    with pytest.raises(ConfigError, match="--text is missing"):
        run(place, capsys, place / "v", "--workdir", place / "w")
    with pytest.raises(ConfigError, match="no pairs to align on; name a source"):
        run(place, capsys, place / "v", place / "t", "--workdir", place / "w")
    assert not (place / "w").exists()
    with pytest.raises(ConfigError, match="unexpected arguments more"):
        run(place, capsys, place / "v", place / "t", "folder:x", "more", "--workdir", place / "w")
