"""Templates and class names in the JSON files of CLIP_benchmark, by set, and in any other file."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_jax.evals.names import from_file
from lit_jax.inference.json_sets import list_of_set
from lit_jax.inference.prompts import load_templates
from lit_jax.utils.errors import ConfigError

# In the form of en_zeroshot_classification_templates.json and of en_classnames.json.
TEMPLATES = {
    "imagenet1k": ["a bad photo of a {c}.", "a {c}."],
    "cifar10": ["a blurry photo of a {c}."],
    "vtab/cifar10": ["a blurry photo of a {c}."],
    "vtab/pets": ["a photo of a {c}, a type of pet."],
    "vtab/dtd": ["a {c} texture."],
}
NAMES = {"cifar10": ["airplane", "auto_mobile"], "pets": ["abyssinian", "bengal", "birman"]}


def write(folder, found):
    path = folder / "en.json"
    path.write_text(json.dumps(found), encoding="utf-8-sig")
    return str(path)


@pytest.mark.parametrize(
    ("name", "sources", "key"),
    [
        (":imagenet1k", (), "imagenet1k"),
        (":vtab/pets", (), "vtab/pets"),
        (":pets", (), "vtab/pets"),
        (":vtab/dtd", ("cifar10",), "vtab/dtd"),
        ("", ("imagenet2012", "tfds:imagenet2012/validation"), "imagenet1k"),
        ("", ("tfds:oxford_iiit_pet/test",), "vtab/pets"),
        ("", ("wds:/data/wds_vtab-dtd/test/*.tar",), "vtab/dtd"),
        ("", ("folder:/data/CIFAR-10/test",), "cifar10"),
    ],
)
def test_the_templates_are_those_of_the_set_that_is_named_or_measured(name, sources, key, tmp_path):
    want = tuple(text.replace("{c}", "{}") for text in TEMPLATES[key])
    assert load_templates(write(tmp_path, TEMPLATES) + name, sources) == want


def test_the_class_names_of_a_set_are_read_and_must_fit_it(tmp_path):
    path = write(tmp_path, NAMES)
    assert from_file(f"{path}:cifar10", ["0", "1"]) == ("airplane", "auto mobile")
    assert from_file(path, ["a", "b", "c"], ["tfds:oxford_iiit_pet/test"]) == (
        "abyssinian",
        "bengal",
        "birman",
    )
    with pytest.raises(ConfigError, match="has 3 names and the set has 2 classes"):
        from_file(f"{path}:pets", ["0", "1"])


def test_an_object_of_classes_is_not_mistaken_for_one_of_sets(tmp_path):
    numbered = write(tmp_path, {"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]})
    assert from_file(numbered, ["n01440764", "n01443537"]) == ("tench", "goldfish")
    with pytest.raises(ConfigError, match="has no sets, and 'pets' of it is asked for"):
        from_file(write(tmp_path, ["tench"]) + ":pets")


def test_a_set_that_is_missing_or_not_named_is_asked_for(tmp_path):
    path = write(tmp_path, TEMPLATES)
    with pytest.raises(ConfigError) as raised:
        load_templates(path, ["folder:mine"])
    assert str(raised.value) == (
        f"{path} has lists for 5 sets (imagenet1k, cifar10, vtab/cifar10, vtab/pets, vtab/dtd); name the one that is "
        f"meant: {path}:imagenet1k"
    )
    with pytest.raises(ConfigError, match=r"has no set 'imagenet'; did you mean imagenet1k\?"):
        load_templates(f"{path}:imagenet")
    assert list_of_set("x", {"only": ["a {}."]}, None) == ["a {}."]


def test_prompts_that_differ_from_class_to_class_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match="prompts that differ from class to class are not read"):
        load_templates(write(tmp_path, {"imagenet1k": {"tench": ["a fish"]}}))


def test_lines_end_only_where_files_end_them(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffa\u2028{} b\x0cc\r\nzwei {}\r{}\x85é\n".encode())
    assert load_templates(path) == ("a\u2028{} b\x0cc", "zwei {}", "{}\x85é")
    assert from_file(str(path)) == ("a\u2028{} b\x0cc", "zwei {}", "{}\x85é")


values = st.recursive(
    st.none() | st.integers() | st.text(max_size=6) | st.sampled_from(["a {c}.", "{}", "{} {}", "0", "1"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
contents = (
    st.binary(max_size=60)
    | st.text(max_size=60).map(str.encode)
    | values.map(lambda v: json.dumps(v).encode())
)


def read_templates_and_names(folder, ending, content):
    """Reads a file of templates or of names, which gives texts or a ConfigError of one line."""
    path = folder / f"any{ending}"
    path.write_bytes(content)
    for read in (
        load_templates,
        lambda p: from_file(p, ["0", "b"]),
        from_file,
        lambda p: from_file(f"{p}:b"),
    ):
        try:
            texts = read(str(path))
        except ConfigError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert texts is not None and all(isinstance(text, str) for text in texts)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ending=st.sampled_from([".json", ".txt"]), content=contents)
def test_any_file_gives_texts_or_one_sentence(tmp_path, ending, content):
    read_templates_and_names(tmp_path, ending, content)
