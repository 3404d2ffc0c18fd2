"""A table of (regex, value) gives each path the value of its first whole match."""

import pytest

from lit_jax.utils.errors import ConfigError
from lit_jax.utils.path_rules import by_path, check_patterns, first_match

TREE = {"text": {"pooler": {"kernel": 1, "bias": 2}}, "logit_scale": 3}
PATHS = ["text/pooler/kernel", "text/pooler/bias", "logit_scale"]
RULES = ((r"text/.*kernel", "a"), (r"text/.*", "b"), (r"scale", "c"))


def test_the_first_row_that_matches_the_whole_path_decides():
    assert first_match("text/pooler/kernel", RULES) == "a"
    assert first_match("text/pooler/bias", RULES) == "b"
    assert first_match("logit_scale", RULES, "none") == "none"


def test_every_leaf_gets_the_value_of_its_path():
    assert by_path(TREE, RULES, 0) == {"text": {"pooler": {"kernel": "a", "bias": "b"}}, "logit_scale": 0}


def test_a_regex_that_matches_no_path_is_refused_with_a_likely_path():
    check_patterns(["text/.*", ".*kernel"], PATHS, "lr_multipliers")
    with pytest.raises(ConfigError, match=r"lr_multipliers: 'txt/pooler/kernel' .*'text/pooler/kernel'"):
        check_patterns(["text/.*", "txt/pooler/kernel"], PATHS, "lr_multipliers")


def test_a_broken_regex_is_refused():
    with pytest.raises(ConfigError, match=r"'text/\(' is not a regex over parameter paths"):
        check_patterns(["text/("], PATHS, "lr_multipliers")
