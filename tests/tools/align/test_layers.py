"""Which layers of two towers are most alike, and a run that is cut after them."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lit_jax
from lit_jax.config import read_config
from lit_jax.config.default import as_config_dict
from lit_jax.tools.align import layers
from lit_jax.tools.align.align import align
from lit_jax.tools.align.pairs import read
from tests import tiny

RNG = np.random.default_rng(0)
TRUE = RNG.normal(size=(60, 8))  # What both towers say in their best layers; the less in the others.


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers")
    tiny.write_towers(folder)
    tiny.write_tower(folder / "swin", tiny.SWIN)
    tiny.write_pairs(folder / "pairs", n=40)
    weights = folder / "t" / "model.safetensors"
    tensors = load_file(weights)
    for name in tensors:  # The last layer forgets the caption.
        if "encoder.layer.2.output.LayerNorm.weight" in name:
            tensors[name] = np.zeros_like(tensors[name])
    save_file(tensors, weights)
    return folder


def pretended(best, asked):
    """Features that are those of `TRUE` in the layers `best`, with more noise the farther a layer is from them."""

    def features(run):
        depths = [
            run.model.vision_config.get("num_hidden_layers", 3),
            run.model.text_config.get("num_hidden_layers", 3),
        ]
        asked.append(tuple(depths))
        return [TRUE + abs(n - at) * RNG.normal(size=TRUE.shape) for n, at in zip(depths, best, strict=True)]

    return features


@pytest.mark.parametrize("best", [(1, 2), (3, 1), (2, 3)])
def test_the_two_layers_that_share_most_neighbours_are_taken(best, place):
    asked = []
    config = read_config(tiny.config(place, model__lock_towers="LL"))
    run, tried = layers.with_best_layers(config, pretended(best, asked))
    assert asked == [(1, 1), (2, 2), (3, 3)]  # Each layer of each tower once.
    assert (tried.vision_layer, tried.text_layer) == best
    assert tried.vision[str(best[0])] == tried.text[str(best[1])] == 1.0
    assert tried.vision.keys() == tried.text.keys() == {"1", "2", "3"}
    wanted = [{"num_hidden_layers": n} if n < 3 else {} for n in best]
    assert [run.model.vision_config, run.model.text_config] == wanted


def test_of_equal_layers_the_last_are_taken_and_swin_stays_whole(place):
    config = read_config(tiny.config(place, model__lock_towers="LL", model__vision=str(place / "swin")))
    run, tried = layers.with_best_layers(config, lambda run: (TRUE, TRUE))
    assert run == config and (tried.vision_layer, tried.text_layer) == (None, 3)


@pytest.mark.parametrize(("depth", "tried"), [(1, [1]), (3, [1, 2, 3]), (24, list(range(2, 25, 2)))])
def test_at_most_twelve_layers_are_tried_and_the_last_is_one_of_them(depth, tried):
    assert layers._tried(depth) == tried
    assert all(layers._tried(n)[-1] == n and len(layers._tried(n)) <= 12 for n in range(1, 80))


@pytest.mark.slow
def test_an_aligned_run_is_cut_after_the_best_layers_and_so_is_its_export(place, tmp_path):
    config = tiny.config(
        place, model__lock_towers="LL", model__text_pooling="mean", model__vision_pooling="cls"
    )
    text = f"{place / 't'}"
    made = align(
        as_config_dict(read_config(config)),
        tmp_path,
        [str(place / "v")],
        [text],
        f"folder:{place / 'pairs'}",
        layers=True,
    )
    [pair] = made.pairs
    assert pair.layers.text_layer == 2 and pair.layers.text["2"] > pair.layers.text["3"]
    run = read_config(json.loads((tmp_path / pair.workdir / "config.json").read_text()))
    assert run.model.text_config == {"num_hidden_layers": 2}
    module, params = lit_jax.load(made.export)
    assert module.config.text.num_hidden_layers == 2 and len(params["text"]["layers"]["norm1"]["scale"]) == 2
    assert read(tmp_path) == made.pairs
    assert f"{pair.text}, layer 2" in (tmp_path / "align.md").read_text()
    vectors = lit_jax.Embedder(made.export).texts(["a red square", "a blue circle"])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3  # Of the last layer they would be the same.
