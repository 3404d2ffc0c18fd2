"""lit-jax prepare --decoded: a data set for a tower, at the tower's image size or at another."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from lit_jax.commands.prepare import main
from lit_jax.data.sources.registry import open_source
from lit_jax.data.transforms.image_files import open_image
from lit_jax.data.transforms.image_processor import make_decode
from lit_jax.hf.image_processors import set_image_size
from lit_jax.hf.processor import load_image_processor
from tests import tiny


@pytest.mark.parametrize("size", [None, 24])
def test_a_decoded_set_has_the_pixels_of_a_tower_without_its_weights(tmp_path, size):
    tower, pairs = tmp_path / "tower", tiny.write_pairs(tmp_path / "pairs", n=6)
    tower.mkdir()
    fields = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": True}
    fields |= {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    (tower / "preprocessor_config.json").write_text(json.dumps(fields))
    words = f"{pairs} --output {tmp_path / 'set'} --name x --split train --processes 1 --decoded {tower}"
    done = CliRunner().invoke(main, words.split() + ([] if size is None else ["--image-size", str(size)]))
    assert done.exit_code == 0, done.output
    processor = load_image_processor(tower)
    if size is not None:
        set_image_size(processor, size)
    decode = make_decode(processor)
    prepared, source = open_source(f"tfds:{tmp_path / 'set'}/train"), open_source(pairs)
    for i in range(6):
        stored = prepared[i]["image"]
        assert min(open_image(stored).size) == (36 if size is None else 27)
        np.testing.assert_array_equal(decode(stored), decode(source[i]["image"]))
