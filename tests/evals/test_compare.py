import json
import logging

import numpy as np
import pytest

from lit_jax.__main__ import main
from lit_jax.evals import bootstrap
from lit_jax.evals.compare import compare, independent
from lit_jax.evals.protocol import fingerprint, protocol_fingerprint
from lit_jax.evals.zero_shot import Classified
from lit_jax.utils.errors import ConfigError, DataError


def write(path, rank, *, queries=True, **protocol):
    """What `evaluate` writes for a classifier with these ranks."""
    ranks = Classified(np.array(rank), np.zeros(len(rank), int))
    protocol = {"task": "zero_shot", "images": len(rank), "templates": ["{}"], "ties": "lower"} | protocol
    result = {
        "data": "folder:pairs",
        "chance": {"zero_shot": {"top1": 1 / 3}},
        "protocol": {"zero_shot": protocol},
        "fingerprints": {"zero_shot": protocol_fingerprint(protocol)},
        "bootstrap": {"draws": 500, "level": 0.95, "seed": 0},
        "metrics": {"zero_shot": bootstrap.estimate(ranks)},
        "intervals": {"zero_shot": bootstrap.intervals(ranks, draws=500)},
    }
    if queries:
        text = {name: " ".join(map(str, row)) for name, row in vars(ranks).items()}
        result["queries"] = {"zero_shot": text}
    path.write_text(json.dumps(result))
    return path


@pytest.fixture
def ranks():
    rng = np.random.default_rng(0)
    first = rng.choice([1, 3], 200)
    second = np.where(np.arange(200) % 10 == 0, 1, first)  # Never worse.
    return first.tolist(), second.tolist()


def test_differences_are_paired_where_both_keep_their_queries(tmp_path, ranks):
    a, b = (write(tmp_path / f"{i}.json", rank) for i, rank in enumerate(ranks))
    row = compare(a, b)["zero_shot"]["top1"]
    assert row["paired"] and row["difference"] == row["second"] - row["first"] > 0
    low, high = row["interval"]
    assert 0 < low < row["difference"] < high

    b = write(tmp_path / "b.json", ranks[1], queries=False)
    row = compare(a, b)["zero_shot"]["top1"]
    assert not row["paired"]
    assert row["interval"][0] < 0 and row["interval"][1] - row["interval"][0] > 1.5 * (high - low)


def test_independent_intervals_add_in_squares():
    assert independent(0.5, (0.47, 0.54), 0.6, (0.57, 0.64)) == pytest.approx((0.05, 0.15))


def test_results_of_different_protocols_are_refused_with_the_differences(tmp_path, ranks, capsys):
    a = write(tmp_path / "a.json", ranks[0])
    b = write(tmp_path / "b.json", ranks[1], templates=["a {}"], ties="mean")
    with pytest.raises(
        ConfigError, match=r'zero_shot\.?.*templates is \["\{\}"\] and \["a \{\}"\]; ties is "lower"'
    ):
        compare(a, b)
    with pytest.raises(SystemExit) as end:
        main(["compare", str(a), str(b)])
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and 'ties is "lower" and "mean"' in said.err


def test_differences_that_come_with_the_models_are_shown_and_refused_only_if_strict(tmp_path, ranks, caplog):
    a = write(tmp_path / "a.json", ranks[0], image_processor={"size": 224}, text_length=16)
    b = write(tmp_path / "b.json", ranks[1], image_processor={"size": 384}, text_length=64)
    told = "image_processor.size is 224 and 384; text_length is 16 and 64"
    with caplog.at_level(logging.INFO):
        compare(a, a)
        assert caplog.text == ""
        assert compare(a, b)["zero_shot"]["top1"]["paired"] and caplog.text.count(told) == 1
    with pytest.raises(ConfigError, match=f"under different protocols in .*: {told}; evaluate both"):
        compare(a, b, strict=True)
    for options, status in (([], 0), (["--strict"], 2)):
        with pytest.raises(SystemExit) as end:
            main(["compare", str(a), str(b), *options])
        assert end.value.code == status


def test_a_result_with_the_fingerprint_of_an_older_version_is_read(tmp_path, ranks):
    a = write(tmp_path / "a.json", ranks[0], image_processor={"size": 224})
    result = json.loads(a.read_text())
    old = fingerprint(result["protocol"]["zero_shot"])
    assert old != protocol_fingerprint(result["protocol"]["zero_shot"])
    result["fingerprints"]["zero_shot"] = old
    a.write_text(json.dumps(result))
    assert compare(a, a)["zero_shot"]["top1"]["difference"] == 0


def test_the_table_marks_intervals_that_exclude_zero(tmp_path, ranks, capsys):
    a, b = (write(tmp_path / f"{i}.json", rank) for i, rank in enumerate(ranks))
    with pytest.raises(SystemExit) as end:
        main(["compare", str(a), str(b), "--json", str(tmp_path / "out.json")])
    assert end.value.code == 0
    lines = {line.split()[0]: line.rstrip() for line in capsys.readouterr().out.splitlines()}
    assert lines["top1"].endswith("*") and not lines["top5"].endswith("*")
    assert json.loads((tmp_path / "out.json").read_text()) == compare(a, b)


def test_files_that_are_not_results_or_were_changed_are_refused(tmp_path, ranks):
    a = write(tmp_path / "a.json", ranks[0])
    for text in ("", "[]", "{}", '{"metrics": {"zero_shot": {}}}'):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(DataError, match="is not a result"):
            compare(a, tmp_path / "b.json")
    for name in ("data", "bootstrap", "chance", "intervals"):  # A model card needs these too.
        rest = {key: value for key, value in json.loads(a.read_text()).items() if key != name}
        (tmp_path / "b.json").write_text(json.dumps(rest))
        with pytest.raises(DataError, match="is not a result"):
            compare(a, tmp_path / "b.json")
    changed = json.loads(a.read_text())
    changed["protocol"]["zero_shot"]["ties"] = "mean"
    (tmp_path / "b.json").write_text(json.dumps(changed))
    with pytest.raises(DataError, match="does not match its fingerprint"):
        compare(a, tmp_path / "b.json")
    changed = json.loads(a.read_text())
    changed["metrics"]["zero_shot"]["top1"] += 0.01
    (tmp_path / "b.json").write_text(json.dumps(changed))
    with pytest.raises(DataError, match="do not match its queries"):
        compare(a, tmp_path / "b.json")


def test_results_without_a_task_in_common_are_refused(tmp_path, ranks):
    a = write(tmp_path / "a.json", ranks[0])
    other = {name: {} for name in ("metrics", "protocol", "fingerprints", "intervals")}
    (tmp_path / "b.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="no task is in both"):
        compare(a, tmp_path / "b.json")
