import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from lit_jax.data.transforms.image_processor import make_decode
from lit_jax.evals import retrieval
from lit_jax.evals.bootstrap import estimate, intervals
from lit_jax.evals.compare import compare
from lit_jax.evals.evaluate import evaluate
from lit_jax.evals.presets import PRESETS, canonical, find
from lit_jax.evals.request import EvalConfig
from lit_jax.inference.prompts import class_embeddings, class_texts, load_templates
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError
from tests import tiny

NAMES = ["Tiger_Cat", "St. Bernard's dog", "CD-player"]
TEMPLATES = ["A photo of a {}.", "the {}, (close)!"]
CANONICAL = [
    "a photo of a tiger cat",
    "the tiger cat close",
    "a photo of a st bernards dog",
    "the st bernards dog close",
    "a photo of a cdplayer",
    "the cdplayer close",
]


def embed(text):
    """A vector for each text that any change of the text changes."""
    return np.random.default_rng(list(text.encode())).normal(size=8)


@pytest.fixture(scope="module")
def processor():
    return tiny.image_processor(32)


@pytest.mark.parametrize("name", PRESETS)
def test_text_weights_equal_the_protocol_computed_anew(name):
    texts = [find(name).text(text) for text in class_texts(NAMES, TEMPLATES)]
    got = class_embeddings(np.array([embed(text) for text in texts], np.float32), templates=2)

    prompts = CANONICAL if name == "lit" else [t.format(n) for n in NAMES for t in TEMPLATES]
    want = []
    for c in range(3):
        rows = [embed(prompt) for prompt in prompts[2 * c : 2 * c + 2]]
        total = sum(row / np.sqrt((row**2).sum()) for row in rows) / 2
        want.append(total / (np.sqrt((total**2).sum()) + 1e-8))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", PRESETS)
def test_pixels_equal_the_protocol_computed_anew(name, processor):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 71, 3), np.uint8))
    file = io.BytesIO()
    picture.save(file, "PNG")
    got = make_decode(find(name).image_processor(processor))(file.getvalue())
    if name == "lit":  # 32 / 0.875 is 36.57.
        want = picture.resize((36, 36), Image.Resampling.BILINEAR).crop((2, 2, 34, 34))
    else:
        want = picture.resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(got, np.asarray(want))
    assert processor.size["height"] == 32 and not getattr(processor, "do_center_crop", None)


def test_canonical_text_has_no_punctuation_case_or_extra_space():
    assert canonical(" A__Big, 'red' (car)! ") == "a big red car"
    assert canonical("Äpfel-Baum") == re.sub("-", "", "äpfelbaum")


def test_templates_are_read_from_json_with_either_place(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(["a {c}.", "ein {}"]))
    assert load_templates(str(file)) == ("a {}.", "ein {}")
    for text in ("{", '{"a": 1}', "[1]"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="is not a JSON list of templates"):
            load_templates(str(file))


def test_squares_are_refused_for_pictures_that_keep_their_shapes():
    patches = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=18)
    with pytest.raises(
        ConfigError, match=r"the image processor is \{\}; this preset needs a square height and width"
    ):
        find("lit").image_processor(patches)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="preset 'big' is unknown; wanted one of lit"):
        find("big")


def test_open_clip_rounds_median_ranks_down_in_every_draw():
    ranks = [rng.integers(1, 9, size) for rng, size in ((np.random.default_rng(i), 10) for i in range(40))]
    for rank in ranks:
        found = retrieval.WholeMedians(rank, rank[::-1], np.arange(10))
        got = estimate(found)
        # open_clip counts ranks from 0 and adds 1 at the end.
        assert got["image_to_text_median_rank"] == np.floor(np.median(rank - 1)) + 1
        plain = estimate(retrieval.Retrieved(rank, rank[::-1], np.arange(10)))
        assert {name: got[name] for name in got if "median" not in name} == {
            name: plain[name] for name in plain if "median" not in name
        }
        low, high = intervals(found, draws=50)["text_to_image_median_rank"]
        assert low <= high
    assert any(np.median(rank) % 1 for rank in ranks)


def test_the_protocol_of_open_clip_says_that_its_medians_are_whole(tmp_path):
    tiny.write_models_and_pictures(tmp_path)
    files = {}
    for preset in ("open_clip", "clip_benchmark", None):
        config = EvalConfig(preset=preset)
        result = evaluate(tmp_path / "model", f"folder:{tmp_path / 'pairs'}", config)
        assert (result["protocol"]["retrieval"].get("median_rank") == "rounded down") == (
            preset == "open_clip"
        )
        assert preset != "open_clip" or result["metrics"]["retrieval"]["image_to_text_median_rank"] % 1 == 0
        files[preset] = tmp_path / f"{preset}.json"
        files[preset].write_text(json.dumps(result))
    compare(files["clip_benchmark"], files[None])
    compare(files["open_clip"], files["open_clip"])
    with pytest.raises(ConfigError, match=r"median_rank is .?rounded down.? and "):
        compare(files["open_clip"], files[None])
