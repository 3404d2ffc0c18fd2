"""What a quickstart trains on if the caller brings it."""

import json

import pytest

from lit_jax.config import default_config
from lit_jax.data.sources.contents import captions_of
from lit_jax.data.sources.registry import open_source
from lit_jax.tools.quickstart.quickstart import Inputs, gather
from lit_jax.utils.errors import ConfigError
from tests import tiny


def test_the_captions_of_ones_own_pairs_are_those_that_the_config_names(tmp_path):
    vision, text = tiny.write_towers(tmp_path)
    data = tiny.write_pairs(tmp_path / "pairs", n=10)
    rows = [{"file_name": f"{i:03}.png", "caption": f"{i}.png", "alt": f"bird {i}"} for i in range(10)]
    (tmp_path / "pairs" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = default_config()
    config.data.caption = "alt"
    gather(config, tmp_path / "work", Inputs(vision, text, data))
    parts = [
        open_source(spec, caption=config.data.caption or None)
        for spec in (config.data.train, config.data.test)
    ]
    assert [captions_of(part)[0] for part in parts] == [
        [f"bird {i}" for i in range(8)],
        ["bird 8", "bird 9"],
    ]


def test_a_workdir_keeps_to_the_pairs_that_it_was_begun_with(tmp_path):
    vision, text = tiny.write_towers(tmp_path)
    first, second = (tiny.write_pairs(tmp_path / name, n=10) for name in ("first", "second"))
    for _ in range(2):
        gather(default_config(), tmp_path / "work", Inputs(vision, text, first))
    with pytest.raises(ConfigError, match=f"holds the pairs of {first}, and those of {second} are asked for"):
        gather(default_config(), tmp_path / "work", Inputs(vision, text, second))
