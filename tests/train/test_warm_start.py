"""`config.init_from`: a run begins with all weights of a dual encoder, and with the metrics that they give."""

import dataclasses
import json
import logging

import jax
import numpy as np
import pytest

from lit_jax.config import read_config
from lit_jax.evals.evaluate import evaluate
from lit_jax.hf import load
from lit_jax.hf import save as saving
from lit_jax.hf.join import from_towers
from lit_jax.models.layers.spec import Compute
from lit_jax.tools.export import export
from lit_jax.tools.plan import parameters
from lit_jax.train import warm_start
from lit_jax.train.loop import train
from lit_jax.utils.errors import ConfigError
from tests import tiny
from tests.hf.conversions import foreign


def config(folder, **changes):
    """The config of a run that starts from `folder`/model but describes other towers and heads."""
    changes = {"model__lock_towers": "UU", "init_from": str(folder / "model")} | changes
    return tiny.config(folder, **changes)


@pytest.fixture
def model(tmp_path):
    module, params = tiny.dual(7)
    params["logit_scale"] = np.float32(3.25)
    saving.save(tmp_path / "model", module, params, tiny.processor())
    return tmp_path


@pytest.mark.slow
def test_the_first_evaluation_is_that_of_the_model(model):
    state = train(config(model, steps=1, eval_every=1, optim__warmup_steps=0), model / "run")
    rows = [json.loads(line) for line in (model / "run" / "metrics.jsonl").read_text().splitlines()]
    first = {name.removeprefix("test/"): value for name, value in rows[0].items() if name != "step"}
    wanted = evaluate(model / "model", f"folder:{model / 'pairs'}")["metrics"]["retrieval"]
    assert rows[0]["step"] == 0 and first == pytest.approx(wanted)
    assert rows[1]["logit_scale"] == pytest.approx(np.exp(3.25 - 0.01), rel=1e-4)  # After one step of AdamW.
    assert set(state.tuned) == {"vision", "text", "visual_projection", "text_projection", "logit_scale"}


def test_every_weight_comes_from_the_model_and_what_is_not_used_is_reported(model, caplog):
    recipe = read_config(config(model, model__vision_pooling="mean", model__projection_dim=99))
    with caplog.at_level(logging.INFO):
        loaded = warm_start.read(recipe, Compute())
    module, params = load.load(model / "model")
    assert (
        loaded.module.config
        == module.config
        == parameters.config_of(recipe)
        == warm_start.model_config(recipe)
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded.params, params)) and loaded.fresh == ()
    assert "not used are model.vision, model.text, model.projection_dim, model.vision_pooling" in caplog.text


def test_heads_and_poolings_that_only_lit_jax_knows_are_kept(tmp_path):
    module, params = from_towers(*tiny.write_towers(tmp_path), vision_pooling="cls_mean", text_pooling="mean")
    saving.save(tmp_path / "model", module, params, tiny.processor(), layout="lit_jax")
    loaded = warm_start.read(read_config(config(tmp_path)), Compute())
    assert loaded.module.config == module.config and module.config.vision_pooling == "cls_mean"
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded.params, params))


@pytest.mark.parametrize(("bias", "wanted"), [(None, -10.0), (-3.5, -3.5)])
def test_the_sigmoid_loss_adds_a_bias_and_the_softmax_loss_drops_it(tmp_path, bias, wanted):
    module, params = tiny.dual(0)
    if bias is not None:
        module = dataclasses.replace(
            module, config=dataclasses.replace(module.config, logit_bias_init_value=bias)
        )
        params["logit_bias"] = np.float32(bias)
    saving.save(tmp_path / "model", module, params, tiny.processor(), layout="lit_jax")
    loaded = warm_start.read(read_config(config(tmp_path, loss="sigmoid")), Compute())
    assert loaded.params["logit_bias"] == wanted
    loaded = warm_start.read(read_config(config(tmp_path)), Compute())
    assert "logit_bias" not in loaded.params and loaded.module.config.logit_bias_init_value is None


def test_a_siglip_that_is_tuned_by_the_softmax_loss_keeps_its_bias_and_its_class(tmp_path):
    path = foreign.write(tmp_path / "npz", foreign.stored("siglip_npz"))
    module, params = load.load(path)
    saving.save(tmp_path / "model", module, params, tiny.processor())
    state = train(config(tmp_path, steps=2, optim__warmup_steps=1), tmp_path / "run")
    assert {**state.tuned, **state.locked}["logit_bias"] == params["logit_bias"] != 0
    export(tmp_path / "run", tmp_path / "export")
    assert json.loads((tmp_path / "export" / "config.json").read_text())["model_type"] == "siglip"
    assert load.load(tmp_path / "export")[1]["logit_bias"] == params["logit_bias"]
    card = (tmp_path / "export" / "README.md").read_text()
    assert "of an ordinary `SiglipModel`" in card and 'SiglipModel.from_pretrained("' in card
    assert "('.*/attn/(query\\|value)/kernel',)" in card  # A regex is not taken for a path.


def test_pictures_can_have_another_size(model):
    recipe = read_config(config(model, model__image_size=64))
    loaded, whole = warm_start.read(recipe, Compute()), load.load(model / "model", image_size=64)
    assert loaded.module.config == whole[0].config == warm_start.model_config(recipe)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded.params, whole[1]))


def test_a_start_in_closed_form_is_refused_if_the_model_brings_heads(model):
    with pytest.raises(ConfigError, match=r"init_from brings heads, and model.init='cca' computes them anew"):
        read_config(config(model, model__init="cca", model__lock_towers="LL", cache=True))
