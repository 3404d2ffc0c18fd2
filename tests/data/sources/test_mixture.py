"""A mixture gives each source its share, leaves no record out, and says what cannot be mixed."""

from collections import Counter

import pytest

from lit_jax.data.sources.base import Source
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import ConfigError
from tests.data.conftest import read_batches, row, texts_of


@pytest.fixture
def specs(write_folder):
    """Two folders, of 30 and of 10 records."""
    large = write_folder([row(i) for i in range(30)], name="large")
    small = write_folder([row(i) | {"captions": ["small"]} for i in range(10)], name="small")
    return f"folder:{large}", f"folder:{small}"


def test_shares_follow_the_weights_and_no_record_is_left_out(specs):
    mixed = open_source([(specs[0], 1.0), (specs[1], 1)])
    assert isinstance(mixed, Source) and len(mixed) == 60 and mixed.spec == f"0.5 {specs[0]} + 0.5 {specs[1]}"
    ids = Counter((mixed[i]["captions"] == ["small"], mixed[i]["id"]) for i in range(60))
    assert len(ids) == 40 and {key: n for key, n in ids.items() if key[0]} == {
        (True, f"r{i}"): 3 for i in range(10)
    }
    with pytest.raises(IndexError):
        mixed[60]


def test_a_heavier_large_source_repeats_the_small_one_less(specs):
    assert len(open_source([(specs[0], 3), (specs[1], 1)])) == 40
    assert len(open_source([(specs[0], 30), (specs[1], 1)])) == 310  # Now the large one is repeated.


def test_batches_of_a_mixture_hold_the_shares(specs):
    mixed = open_source([(specs[0], 3), (specs[1], 7)])
    batches = read_batches(mixed, batch_size=50, seed=0)
    texts = [text for _ in range(2) for text in texts_of(next(batches))]
    assert len(mixed) == 100 and texts.count("small") == 70


def test_class_names_are_kept_where_all_agree(specs, write_folder):
    mixed = open_source([(specs[0], 1), (specs[1], 1)])
    assert mixed.class_names == ("ant", "cat", "dog") and mixed[0]["label"] == 1
    other = write_folder([{"file_name": "00.png", "label": "cow"}], name="other")
    mixed = open_source([(specs[0], 1), (str(other), 1)])
    assert mixed.class_names is None and "label" not in mixed[0]


def test_the_fingerprint_follows_sources_and_weights(specs):
    large, small = specs
    fingerprints = {
        open_source(parts).fingerprint()
        for parts in (
            [(large, 1), (small, 1)],
            [(large, 1), (small, 2)],
            [(small, 1), (large, 1)],
            [(large, 1)],
        )
    }
    assert len(fingerprints) == 4


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((1, 0), r"the weight of folder:.*small is 0; want a number above 0"),
        ((float("inf"), 1), "is inf"),
        ((1e-12, 1), r"the mixture would need 3e\+13 records"),
    ],
)
def test_impossible_weights_are_refused(specs, weights, words):
    with pytest.raises(ConfigError, match=words):
        open_source(list(zip(specs, weights, strict=True)))
    with pytest.raises(ConfigError, match="a mixture of no sources"):
        open_source([])
