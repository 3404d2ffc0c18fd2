"""Ten thousand hostile image processors and as many tokenizers: used, or refused in a sentence. Run with -m slow."""

import copy
import json
import resource
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_jax.data.transforms.image_processor import make_decode, size_of
from lit_jax.data.transforms.tokenizer import make_tokenize
from lit_jax.hf.processor import load_image_processor, load_tokenizer
from lit_jax.utils.errors import LitJaxError
from tests import tiny
from tests.bad_pictures import encoded, noise
from tests.hf import test_image_processor_rules, test_tokenizer_rules
from tests.test_fuzz import folder, many, values

__all__ = ["folder"]
pytestmark = pytest.mark.slow
PICTURE = encoded(noise((40, 30)))
wild = values | st.sampled_from(
    [0, -1, 99, 10**5, 2**31, 10**400, 32.5, 1e300, float("nan"), "text", [0.5], [0.5] * 4]
)
TOKENIZERS = [
    json.loads(make().to_str())
    for make in (
        test_tokenizer_rules.unigram,
        test_tokenizer_rules.bytes_of_pairs,
        lambda: tiny.tokenizer().backend_tokenizer,
        lambda: tiny.bert_tokenizer().backend_tokenizer,
    )
]
PARTS = [
    *(fields for fields, _ in test_tokenizer_rules.BACKENDS if "Regex" not in json.dumps(fields)),
    test_tokenizer_rules.split("a*a*b"),
    test_tokenizer_rules.split("(a+)+b"),
    test_tokenizer_rules.split(test_tokenizer_rules.CLIP),
]


@pytest.fixture(autouse=True)
def limited():
    """Memory grows by at most 1 GiB, whatever the inputs are."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB.


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory):
    """Loads what is imported on first use: that takes seconds, which must not count against any input."""
    tiny.write_models_and_pictures(place := tmp_path_factory.mktemp("first"))
    make_decode(load_image_processor(place / "model"))(PICTURE)
    make_tokenize(load_tokenizer(place / "model"), 8)(["a"])


def places(tree, path=()):
    """The paths of all values in a tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in inner:
        yield (*path, key)
        yield from places(child, (*path, key))


@st.composite
def changed(draw, trees):
    """One of `trees` with up to three values replaced, at any depth."""
    tree = copy.deepcopy(draw(st.sampled_from(trees)))
    for _ in range(draw(st.integers(0, 3))):
        *parents, last = draw(st.sampled_from(sorted(places(tree), key=repr)))
        node = tree
        for key in parents:
            node = node[key]
        node[last] = copy.deepcopy(draw(wild))  # A copy, so that a list of `wild` cannot come to hold itself.
    return tree


def ends_well(use):
    """Whether `use` works; if it does not, it must fail with one sentence, and in any case it must end soon."""
    start = time.process_time()
    try:
        use()
    except LitJaxError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return False
    finally:
        assert time.process_time() - start < 5
    return True


@many
@given(changed(list(test_image_processor_rules.PUBLISHED.values())), st.booleans())
def test_image_processors(folder, fields, nested):
    place = folder / "image"
    place.mkdir(exist_ok=True)
    (place / "preprocessor_config.json").write_text(json.dumps(fields))
    (place / "processor_config.json").write_text(json.dumps({"image_processor": fields} if nested else {}))

    def use():
        processor = load_image_processor(place)
        pixels = make_decode(processor)(PICTURE)
        assert pixels.dtype == np.uint8 and pixels.shape == (*size_of(processor), 3)

    ends_well(use)


@many
@given(
    changed(TOKENIZERS),
    st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(PARTS), max_size=1),
    st.data(),
)
def test_tokenizers(folder, backend, parts, data):
    place = folder / "text"
    place.mkdir(exist_ok=True)
    for part in parts.values():
        backend |= part
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 40}
    for name in data.draw(
        st.lists(st.sampled_from([*sorted(config), "padding_side", "added_tokens_decoder"]), max_size=2)
    ):
        config[name] = data.draw(wild)
    (place / "tokenizer.json").write_text(json.dumps(backend))
    (place / "tokenizer_config.json").write_text(json.dumps(config))

    def use():
        found = make_tokenize(load_tokenizer(place), 12)(["a red  cat", "", "a" * 1500, "Ünï 漢字 🙂"])
        assert found["input_ids"].shape == (4, 12) and found["input_ids"].min() >= 0

    ends_well(use)
