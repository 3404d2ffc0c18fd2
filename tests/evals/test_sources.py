"""An evaluation that leaves out broken records measures what is measured on the other records alone."""

import json

import pytest

import lit_jax
from lit_jax.__main__ import main
from lit_jax.evals.evaluate import evaluate
from lit_jax.evals.request import EvalConfig
from lit_jax.inference.embedder import Embedder, Opened
from lit_jax.utils.errors import ConfigError, DataError
from tests import tiny

N = 24
BROKEN = {  # Record -> (what is wrong with it, the reason that is given).
    3: ("picture", "not an image: 6 bytes"),
    8: ("captions", "record has no caption"),
    11: ("file", "'nowhere.png' cannot be read"),
    20: ("label", "record has no label"),
}


def write(folder, without=()):
    """Writes pairs, some of which are broken or left out."""
    spec = tiny.write_pairs(folder, n=N, labels=True)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for i, (what, _) in BROKEN.items():
        if what == "picture":
            (folder / f"{i:03}.png").write_bytes(b"<html>")
        elif what == "file":
            rows[i]["file_name"] = "nowhere.png"
        else:
            rows[i].pop(what)
    rows = [row for i, row in enumerate(rows) if i not in without]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return spec


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    lit_jax.save(folder / "model", *tiny.dual(), tiny.processor())
    write(folder / "broken")
    write(folder / "sound", without=BROKEN)
    return folder


@pytest.fixture(scope="module")
def model(place):
    embedder = Embedder(place / "model")
    return Opened("model", *tiny.dual(), embedder.processor)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "tasks", [("retrieval", "zero_shot"), ("zero_shot", "linear_probe", "few_shot")], ids=",".join
)
def test_numbers_are_those_of_the_sound_records(place, model, tasks):
    results = []
    for name in ("broken", "sound"):
        spec = f"folder:{place / name}"
        train = spec if "few_shot" in tasks else None
        config = EvalConfig(tasks=tasks, train=train, shots=(1,), seeds=2, on_bad_record="skip")
        results.append(evaluate(model, spec, config))
    broken, sound = results
    if "retrieval" in tasks:
        assert [row["record"] for row in broken["skipped"]] == list(BROKEN)
        for row, (_, reason) in zip(broken["skipped"], BROKEN.values(), strict=True):
            assert row["source"] == f"folder:{place}/broken" and row["reason"].startswith(reason)
        assert broken["metrics"] == sound["metrics"] and broken["queries"] == sound["queries"]
    else:  # A picture without a caption can be classified.
        assert [row["record"] for row in broken["skipped"]] == [3, 11, 20] * 2
        assert broken["protocol"]["zero_shot"]["images"] == N - 3
    assert sound["skipped"] == []


def test_the_shell_says_how_many_records_are_broken_and_writes_which(place, tmp_path, capsys):
    args = ["evaluate", "--model", f"{place}/model", "--data", f"folder:{place}/broken"]
    with pytest.raises(SystemExit) as end:
        main(args)
    said = capsys.readouterr().err
    assert end.value.code == 3 and f"folder:{place}/broken: record 11: 'nowhere.png' cannot be read" in said
    files = ["--ledger", str(tmp_path / "l.jsonl"), "--json", str(tmp_path / "r.json")]
    with pytest.raises(SystemExit) as end:
        main([*args, "--on-bad-record", "skip", *files])
    assert end.value.code == 0 and "3 broken records were left out" in capsys.readouterr().out
    ledger = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    assert ledger == json.loads((tmp_path / "r.json").read_text())["skipped"]
    assert [row["record"] for row in ledger] == [3, 8, 11]


def test_a_source_without_a_sound_record_is_refused_with_the_reasons(model, tmp_path):
    spec = tiny.write_pairs(tmp_path / "pairs", n=5)  # Without labels.
    config = EvalConfig(tasks=("zero_shot",), on_bad_record="skip")
    with pytest.raises(DataError, match=r"every one of its 5 records is broken \(5 x record has no label\)"):
        evaluate(model, spec, config)
    with pytest.raises(ConfigError, match="on_bad_record is 'drop'; want 'error' or 'skip'"):
        evaluate(model, spec, EvalConfig(on_bad_record="drop"))
