"""Heads between pooled outputs and embeddings: their formulas, their gradients, their files."""

import json
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import lit_jax
from lit_jax.config import ModelConfig
from lit_jax.hf.join import join_towers
from lit_jax.models import heads
from lit_jax.models.heads import Head, Projection
from lit_jax.models.layers.blocks import ACTIVATIONS
from lit_jax.models.layers.spec import Compute
from lit_jax.utils import head_fields
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny

torch = pytest.importorskip("torch", reason="heads are compared with PyTorch")
X = jnp.asarray(np.random.default_rng(0).normal(2, 3, size=(5, 12)), jnp.float32)
HEADS = {
    "linear": Head(),
    "linear_bias": Head("linear_bias"),
    "linear of standardised": Head("linear", standardise=True),
    "biased of standardised": Head("linear_bias", standardise=True),
    "mlp": Head("mlp"),
    "mlp with all": Head("mlp", (7, 9), "relu", 0.5, True, True, True),
    "mlp with a skip": Head("mlp", (7,), skip=True),
    "glu": Head("glu", (7,), "silu"),
    "glu of standardised": Head("glu", standardise=True),
    "identity": Head("identity"),
}


def made(head, width=8, seed=0):
    module = Projection(head, "text", 12 if head.kind == "identity" else width, Compute())
    params = module.init(jax.random.key(seed), X).get("params", {})
    params = tiny.randomised(params, seed)
    if head.standardise:
        params["deviation"] = np.abs(params["deviation"]) + 0.5
    return module, params


def in_torch(head, tensors, x):
    """Computes a head in PyTorch, from tensors with the names on disk."""
    t = {name.removeprefix("text_projection."): torch.from_numpy(value) for name, value in tensors.items()}
    acts = {"gelu": torch.nn.functional.gelu, "relu": torch.relu, "silu": torch.nn.functional.silu}
    act, linear = acts[head.activation], torch.nn.functional.linear
    x = torch.from_numpy(x)
    if head.standardise:
        x = (x - t["mean"]) / t["deviation"]
    if head.kind == "identity":
        return x
    if head.kind in ("linear", "linear_bias"):
        return linear(x, t["weight"], t.get("bias"))
    if head.kind == "glu":
        gate, up = linear(x, t["up.weight"], t["up.bias"]).chunk(2, dim=1)
        return linear(act(gate) * up, t["out.weight"], t["out.bias"])
    y = x
    for i in range(len(head.hidden) or 1):
        y = linear(y, t[f"hidden.{i}.weight"], t[f"hidden.{i}.bias"])
        if head.norm:
            y = torch.nn.functional.layer_norm(y, y.shape[-1:], t[f"norm.{i}.weight"], t[f"norm.{i}.bias"])
        y = act(y)
    y = linear(y, t["out.weight"], t["out.bias"])
    return y + linear(x, t["skip.weight"]) if head.skip else y


@pytest.mark.sampled(3)
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_head_equals_its_formula_in_pytorch(head):
    module, params = made(head)
    tensors = heads.weights(head, "text").to_hf({"text_projection": params} if params else {})
    got, want = np.asarray(module.apply({"params": params}, X)), in_torch(head, tensors, np.array(X)).numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(1, np.abs(want).max()))
    again = heads.weights(head, "text").to_jax(tensors, {"text_projection": params} if params else {})
    chex.assert_trees_all_equal(again.get("text_projection", {}), params)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_folded_head_gives_the_same_embeddings(head):
    module, params = made(head)
    other, fewer = heads.folded(head, params)
    assert not other.standardise and not set(fewer) & set(heads.STATISTICS)
    got = module.clone(head=other).apply({"params": fewer}, X)
    want = np.asarray(module.apply({"params": params}, X))
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * max(1, np.abs(want).max()))


def test_the_paths_of_linear_heads_have_not_changed():
    _, params = tiny.dual()
    paths = {path for path in traverse_util.flatten_dict(params, sep="/") if "projection" in path}
    assert paths == {"visual_projection/kernel", "text_projection/kernel"}


def test_dropout_is_drawn_from_the_key_and_only_in_training():
    module, params = made(Head("mlp", dropout=0.5))

    def run(seed, train=True):
        return np.asarray(
            module.apply({"params": params}, X, train=train, rngs={"dropout": jax.random.key(seed)})
        )

    assert (run(1) == run(1)).all() and (run(1) != run(2)).any()
    assert (run(1, train=False) == run(2, train=False)).all()


def test_an_identity_of_another_width_is_refused_with_the_width(tmp_path):
    vision, text = tiny.write_towers(tmp_path)
    with pytest.raises(
        ConfigError, match=r"vision_head='identity' keeps the 32 features .* set projection_dim to 32"
    ):
        join_towers(ModelConfig(vision, text, projection_dim=16, vision_head="identity"))
    loaded = join_towers(ModelConfig(vision, text, projection_dim=32, vision_head="identity"))
    assert "visual_projection" not in loaded.params


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"text_head": "mlp", "text_head_config": {"hidden": [20], "skip": True}}, "text_head=mlp"),
        ({"vision_head": "linear_bias"}, "vision_head=linear_bias"),
    ],
)
def test_our_own_layout_keeps_a_head_that_hf_refuses(fields, shown, tmp_path):
    vision, text = tiny.write_towers(tmp_path)
    module, params, _ = join_towers(ModelConfig(vision, text, projection_dim=16, **fields))
    with pytest.raises(WeightError, match=rf"{shown}.* has no place .*layout='lit_jax'"):
        lit_jax.save(tmp_path / "hf", module, params)
    lit_jax.save(tmp_path / "own", module, params, layout="lit_jax")
    again, same = lit_jax.load(tmp_path / "own")
    assert again.config == module.config
    chex.assert_trees_all_equal(same, jax.tree.map(jnp.asarray, params))
    lit_jax.save(tmp_path / "apart", module, params, layout="towers")
    assert json.loads((tmp_path / "apart/heads/config.json").read_text()) == again.config.to_hf()


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"kind": "deep"}, "the text_head of the config is 'deep'; wanted one of linear, linear_bias, mlp"),
        (
            {"kind": "mlp", "hidden": [0]},
            "'mlp': hidden='[0]' is not usable; wanted a list of up to 16 widths",
        ),
        ({"kind": "mlp", "hidden": 3}, "hidden='3' is not usable"),
        ({"kind": "mlp", "activation": "sine"}, "activation='sine' is not usable; wanted one of gelu"),
        (
            {"kind": "mlp", "dropout": 1},
            "dropout='1' is not usable; wanted a number of 0 or more, and below 1",
        ),
        ({"kind": "linear", "hidden": [3]}, "'linear' has no field 'hidden'; its fields are standardise"),
        ({"kind": "glu", "hidden": [3, 4]}, "'glu': hidden has 2 widths; wanted one"),
        ("mlp", "text_head='mlp'; wanted an object"),
    ],
)
def test_an_unusable_head_in_a_folder_is_named(head, message, tmp_path):
    lit_jax.save(tmp_path, *tiny.dual(), layout="lit_jax")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text_head": head}))
    with pytest.raises(WeightError, match=re.escape(message)):
        lit_jax.load(tmp_path)


def test_the_activations_are_those_of_the_blocks():
    assert set(head_fields.ACTIVATIONS) == set(ACTIVATIONS)
