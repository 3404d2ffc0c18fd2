import json

import pytest
import tensorflow_datasets as tfds

from lit_jax.evals.benchmarks import find_task, tasks
from lit_jax.evals.names import RULES, class_names, from_file, words
from lit_jax.evals.tasks import TASKS
from lit_jax.inference.prompts import load_templates
from lit_jax.utils.errors import ConfigError, DataError


@pytest.mark.parametrize("name", tasks())
def test_a_task_names_a_set_of_tfds_with_prompts_and_names(name):
    task = tasks()[name]
    assert task.data.startswith(f"tfds:{name}/") and name in tfds.list_builders(with_community_datasets=False)
    assert {*task.tasks} <= TASKS.keys() and task.names in RULES
    load_templates(task.templates)
    assert task.train is None or (task.train.startswith("tfds:") and task.train != task.data)


@pytest.mark.parametrize("name", [name for name, task in tasks().items() if task.tasks == ("zero_shot",)])
def test_what_a_task_says_of_names_fits_what_tfds_says(name, tmp_path):
    config = tasks()[name].data.removeprefix("tfds:").split("/")[1:-1]
    builder = tfds.builder_cls(name)(data_dir=tmp_path, **({"config": config[0]} if config else {}))
    names = builder.info.features["label"].names
    if tasks()[name].names == "file":
        assert words(names[0]) == names[0] == "n01440764"
    elif not names[0].isdigit():  # Some sets learn their names when they are prepared.
        rule = tasks()[name].names
        found = class_names(names, rule=rule)
        assert len(set(found)) == len(names)
        assert rule == "label" or not any(set("_/") & {*one} for one in found)


def test_a_task_that_does_not_exist_is_suggested():
    with pytest.raises(ConfigError, match="no task 'cifar1O0'; did you mean cifar10"):
        find_task("cifar1O0")
    with pytest.raises(ConfigError, match="no task 'xyzzy'; there are imagenet2012, "):
        find_task("xyzzy")


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
    with pytest.raises(DataError, match="has no class names"):
        class_names(None)
