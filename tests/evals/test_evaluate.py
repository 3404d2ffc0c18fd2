"""A tiny model on a tiny source through every task, from Python and from the shell."""

import json

import numpy as np
import pytest

import lit_jax
from lit_jax.__main__ import main
from lit_jax.data.sources.registry import open_source
from lit_jax.evals import benchmarks, bootstrap, few_shot, retrieval
from lit_jax.evals.compare import compare
from lit_jax.evals.evaluate import evaluate
from lit_jax.evals.protocol import protocol_fingerprint
from lit_jax.evals.request import EvalConfig
from lit_jax.evals.results import from_rows
from lit_jax.inference.embedder import Embedder
from lit_jax.utils.errors import ConfigError, DataError
from tests import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    module, params = tiny.dual()
    lit_jax.save(folder / "model", module, params, tiny.processor())
    tiny.write_pairs(folder / "pairs", n=24, labels=True)
    (folder / "train").mkdir()
    for file in (folder / "pairs").glob("*.png"):
        (folder / "train" / file.name).write_bytes(file.read_bytes())
    rows = [json.loads(line) for line in (folder / "pairs" / "metadata.jsonl").read_text().splitlines()]
    # The same classes under other numbers, since they are matched by name.
    table = [{"file_name": row["file_name"], "label": row["label"]} for row in rows]
    (folder / "train" / "thing.png").write_bytes((folder / "pairs" / "000.png").read_bytes())
    table.append({"file_name": "thing.png", "label": "a thing"})
    (folder / "train" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    for row in rows:
        row["en"], row["de"] = row.pop("captions"), f"{row['label']} red"
    (folder / "two").mkdir()
    for file in (folder / "pairs").glob("*.png"):
        (folder / "two" / file.name).write_bytes(file.read_bytes())
    (folder / "two" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def learnt(made):
    config = EvalConfig(
        tasks=("few_shot", "linear_probe", "zero_shot"), train=f"folder:{made}/train", shots=(1, 1), seeds=2
    )
    return evaluate(made / "model", f"folder:{made}/pairs", config)


def test_probes_through_evaluate_equal_those_of_the_features(made, learnt):
    model, train = Embedder(made / "model"), open_source(f"folder:{made}/pairs")
    features = model.pictures(train)
    labels = np.array([train[i]["label"] for i in range(24)])
    # The test data is the training data, so nearly all answers are right; "a thing" is picture 0 once more.
    want = few_shot.probe(np.vstack([features, features[:1]]), np.append(labels, 6), features, labels)
    got = learnt["queries"]["linear_probe"]
    ranks = np.array(got["rank"].split(), int)
    assert (ranks[1:] == want.rank[1:]).mean() > 0.9
    assert learnt["metrics"]["linear_probe"]["top1"] > 0.6 > learnt["chance"]["linear_probe"]["top1"]
    assert learnt["chance"]["few_shot"]["1_shot_top1"] == 1 / 7
    assert learnt["protocol"]["few_shot"]["shots"] == [1] and learnt["protocol"]["few_shot"]["seeds"] == 2
    assert "text_length" not in learnt["protocol"]["few_shot"]


def test_every_result_is_read_back_from_its_queries(learnt):
    for task, metrics in learnt["metrics"].items():
        assert bootstrap.estimate(from_rows(task, learnt["queries"][task])) == metrics
        assert protocol_fingerprint(learnt["protocol"][task]) == learnt["fingerprints"][task]
        for name, (low, high) in learnt["intervals"][task].items():
            assert low <= metrics[name] <= high or name.endswith("_std"), name


def test_the_protocol_names_an_arithmetic_that_is_not_float32(made):
    results = [
        evaluate(made / "model", f"folder:{made}/pairs", EvalConfig(dtype=dtype))
        for dtype in ("float32", "bfloat16")
    ]
    assert [result["protocol"]["retrieval"].get("dtype") for result in results] == [None, "bfloat16"]


def test_training_data_is_asked_for_and_must_hold_every_class(made):
    pairs = f"folder:{made}/pairs"
    train = f"folder:{made}/train"
    with pytest.raises(ConfigError, match="give one with --train"):
        evaluate(made / "model", pairs, EvalConfig(tasks=("linear_probe",)))
    with pytest.raises(DataError, match="is of a class of which"):
        evaluate(made / "model", train, EvalConfig(tasks=("linear_probe",), train=pairs))
    with pytest.raises(ConfigError, match="features are 'both'"):
        evaluate(made / "model", pairs, EvalConfig(tasks=("few_shot",), train=pairs, features="both"))
    with pytest.raises(DataError, match="has 1 pictures to learn from and 2 shots"):
        evaluate(made / "model", pairs, EvalConfig(tasks=("few_shot",), train=train, shots=(2,)))


def test_languages_are_measured_one_by_one_and_as_a_mean_through_the_shell(made, tmp_path, capsys):
    two = f"folder:{made}/two"
    args = ["evaluate", "--model", str(made / "model"), "--data", two, "--tasks", "multilingual,retrieval"]
    with pytest.raises(SystemExit) as end:
        main([*args, "--captions", "en,de"])
    assert end.value.code == 2 and "only multilingual takes more than one" in capsys.readouterr().err
    args[-1] = "multilingual"
    with pytest.raises(SystemExit) as end:
        main([*args, "--captions", "en,de", "--json", str(tmp_path / "a.json")])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[2:5]] == ["en", "de", "mean"]
    result = json.loads((tmp_path / "a.json").read_text())
    metrics = result["metrics"]["multilingual"]
    for name in retrieval.chance(np.arange(24), 24):
        assert metrics[f"mean/{name}"] == pytest.approx((metrics[f"en/{name}"] + metrics[f"de/{name}"]) / 2)
    alone = evaluate(made / "model", two, EvalConfig(captions=("de",)))
    assert {f"de/{n}": v for n, v in alone["metrics"]["retrieval"].items()}.items() <= metrics.items()
    assert compare(tmp_path / "a.json", tmp_path / "a.json")["multilingual"]["mean/text_to_image_recall@1"][
        "paired"
    ]


def test_protocols_are_stated_and_compared_in_words(made, learnt, tmp_path):
    words = learnt["words"]["zero_shot"]
    assert words["templates"] == "name: '{}'" and words["ties"] == "lower index first"
    assert words["classes"] == "6: blue circle, blue square, green circle ..."
    assert words["image_processor"].startswith("resized to 32 x 32, bilinear; times 0.00392157; mean 0.5")
    assert words["data"].startswith(f"folder:{made}/pairs, 24 pictures (sha256 ")
    config = EvalConfig(tasks=("zero_shot",), preset="lit")
    other = evaluate(made / "model", f"folder:{made}/pairs", config)
    for name, result in (("a", learnt), ("b", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    with pytest.raises(
        ConfigError, match=r"pictures is as the model has them and squares of side / 0\.875"
    ) as error:
        compare(tmp_path / "a.json", tmp_path / "b.json", strict=True)
    said = str(error.value)
    assert "canonical is prompts as they are and prompts in lower case without punctuation" in said
    assert "templates is name: '{}' and photo: 'a photo of a {}.' and 6 more" in said
    assert "image_processor.size.height is 32 and 36" in said


def test_a_task_by_name_says_what_is_measured_and_a_typo_gets_a_suggestion(made, monkeypatch):
    table = {"tiny": benchmarks.Benchmark(f"folder:{made}/pairs", names="label", templates="plain")}
    with pytest.raises(ConfigError, match=r"task 'cifar10' is unknown.*did you mean --task cifar10\?"):
        evaluate(made / "model", f"folder:{made}/pairs", EvalConfig(tasks=("cifar10",)))
    with pytest.raises(ConfigError, match="give --data SOURCE or --task NAME"):
        evaluate(made / "model")
    monkeypatch.setattr(benchmarks, "all_benchmarks", lambda: table)
    result = evaluate(made / "model", config=EvalConfig(task="tiny"))
    assert set(result["metrics"]) == {"zero_shot"} and result["task"] == "tiny"
    assert result["protocol"]["zero_shot"]["templates"] == ["a photo of a {}."]
