import json

import pytest
import tensorflow_datasets as tfds

from lit_jax.evals.benchmarks import all_benchmarks, find_benchmark
from lit_jax.evals.names import RULES, class_names, from_file, words
from lit_jax.evals.tasks import TASKS
from lit_jax.inference.prompts import load_templates
from lit_jax.utils.errors import ConfigError, DataError

BENCHMARKS = all_benchmarks()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_names_a_set_of_tfds_with_prompts_and_names(name):
    benchmark = BENCHMARKS[name]
    assert benchmark.data.startswith(f"tfds:{name}/")
    assert name in tfds.list_builders(with_community_datasets=False)
    assert {*benchmark.tasks} <= TASKS.keys() and benchmark.names in RULES
    load_templates(benchmark.templates)
    assert benchmark.train is None or (
        benchmark.train.startswith("tfds:") and benchmark.train != benchmark.data
    )


@pytest.mark.parametrize("name", [name for name, row in BENCHMARKS.items() if row.tasks == ("zero_shot",)])
def test_what_a_benchmark_says_of_class_names_agrees_with_tfds(name, tmp_path):
    config = BENCHMARKS[name].data.removeprefix("tfds:").split("/")[1:-1]
    builder = tfds.builder_cls(name)(data_dir=tmp_path, **({"config": config[0]} if config else {}))
    names = builder.info.features["label"].names
    if BENCHMARKS[name].names == "file":
        assert words(names[0]) == names[0] == "n01440764"
    elif not names[0].isdigit():  # Some sets learn their names when they are prepared.
        rule = BENCHMARKS[name].names
        given = class_names(names, rule=rule)
        assert len(set(given)) == len(names)
        assert rule == "label" or not any(set("_/") & {*word} for word in given)


def test_the_closest_name_is_suggested_for_an_unknown_benchmark():
    with pytest.raises(ConfigError, match="no task 'cifar1O0'; did you mean cifar10"):
        find_benchmark("cifar1O0")
    with pytest.raises(ConfigError, match="no task 'xyzzy'; there are imagenet2012, "):
        find_benchmark("xyzzy")


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("n02085620-Chihuahua", "Chihuahua"),
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("/a/airplane_cabin", "airplane cabin"),
        ("AnnualCrop", "annual crop"),
        ("yin_yang", "yin yang"),
        ("SUV 2007", "SUV 2007"),
    ],
)
def test_names_become_words(name, want):
    assert words(name) == want


OWN = ("n01", "n02", "n03")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.txt", "tench\ngreat white_shark\n\nhen\n"),
        ("a.txt", "n02 great white shark, Carcharodon\nn01 tench, Tinca tinca\nn03\then\n"),
        ("a.json", '["tench", "great_white_shark", "hen"]'),
        ("a.json", '{"n03": "hen", "n01": "tench", "n02": "great white shark"}'),
        ("a.json", '{"0": ["n01", "tench"], "1": ["n02", "great_white_shark"], "2": ["n03", "hen"]}'),
    ],
)
def test_names_are_read_from_a_file_of_any_form(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    want = ("tench", "great white shark", "hen")
    assert class_names(OWN, rule="file", file=str(tmp_path / file)) == want


def test_names_that_do_not_fit_are_refused(tmp_path):
    file = tmp_path / "a.json"
    for value, match in (
        (["a"], "1 names and the set has 3"),
        ({"n01": "a"}, "no name for class|1 names"),
        ({"n01": 1, "n02": 2, "n03": 3}, "holds no names"),
    ):
        file.write_text(json.dumps(value))
        with pytest.raises(ConfigError, match=match):
            from_file(str(file), OWN)
    with pytest.raises(ConfigError, match="cannot be read"):
        from_file(str(tmp_path / "none.txt"), OWN)
    with pytest.raises(ConfigError, match=r"codes \(n01 \.\.\.\).*--class-names FILE"):
        class_names(OWN, rule="file")
    with pytest.raises(
        DataError, match=r"its 12 classes by numbers \(0, 1, 2 \.\.\.\), .*--class-names FILE"
    ):
        class_names([str(i) for i in range(12)])
    with pytest.raises(DataError, match="has no class names"):
        class_names(None)
