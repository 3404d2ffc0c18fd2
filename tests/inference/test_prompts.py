import numpy as np
import pytest

from lit_jax.inference.prompts import TEMPLATES, class_embeddings, class_texts, load_templates
from lit_jax.utils.errors import ConfigError, DataError


def test_every_name_is_put_into_every_template_class_by_class():
    assert class_texts([" cat", "set {1}"], ["{}", "a {}."]) == ["cat", "a cat.", "set {1}", "a set {1}."]


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ([], "no class names"),
        (["cat", "dog", "cat "], "more than once: 'cat'"),
        (["cat", " "], "class 1 has a blank name"),
    ],
)
def test_repeated_and_blank_class_names_are_refused(names, match):
    with pytest.raises(DataError, match=match):
        class_texts(names, ["{}"])


@pytest.mark.parametrize("templates", [[], ["a cat."], ["{} and {}"]])
def test_a_template_holds_the_name_once(templates):
    with pytest.raises(ConfigError, match="template"):
        class_texts(["cat"], templates)


def test_every_template_set_gives_distinct_texts():
    for name in TEMPLATES:
        texts = class_texts(["cat", "dog"], load_templates(name))
        assert len(texts) == len(set(texts)) == 2 * len(TEMPLATES[name])


def test_templates_are_read_from_a_text_file(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("# ours\na {}.\n\n  ein {} für uns  \n", encoding="utf-8")
    assert load_templates(str(file)) == ("a {}.", "ein {} für uns")
    file.write_text("a photo of a {c}.\na {}.\n", encoding="utf-8")  # As clip_benchmark writes them.
    assert load_templates(str(file)) == ("a photo of a {}.", "a {}.")
    file.write_text("no place\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="'no place' must contain"):
        load_templates(str(file))
    with pytest.raises(ConfigError, match="neither a file nor one of name, plain"):
        load_templates("plian")


def test_class_embeddings_are_normalised_before_and_after_the_mean():
    rows = np.array([[2, 0], [0, 9], [-3, 0], [-3, 4]], np.float32)
    want = np.array([[1, 1], [-0.8, 0.4]]) / np.array([[2**0.5], [0.8**0.5]])
    got = class_embeddings(rows, templates=2)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_class_embeddings_are_in_the_order_of_class_texts():
    names, templates = ["a", "b", "c"], ["{}", "{}{}"[2:] + "!"]
    vector = {"a": [1, 0, 0], "b": [0, 1, 0], "c": [0, 0, 1]}
    rows = np.array([vector[text[0]] for text in class_texts(names, templates)], np.float32)
    np.testing.assert_array_equal(class_embeddings(rows, templates=2), np.eye(3))


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([[1, 0], [0, 1], [1, 1]], "3 text embeddings are not classes times 2 templates"),
        ([[1, 0], [0, 0]], "text embedding 1 has length 0"),
        ([[1, 0], [np.nan, 0]], "text embedding 1 has length nan"),
        ([[1, 0], [1, 1], [3, 1], [-3, -1]], "mean embedding of class 1 has length"),
    ],
)
def test_rows_of_length_zero_are_refused(rows, match):
    with pytest.raises(DataError, match=match):
        class_embeddings(np.array(rows, np.float32), templates=2)
