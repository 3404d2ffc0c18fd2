"""A model between two others: its weights equal a mean in numpy, and models that do not match are refused."""

import chex
import jax
import numpy as np
import pytest

import lit_jax
from lit_jax.hf import load
from lit_jax.hf import save as saving
from lit_jax.hf.processor import load_processor
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.models.layers.spec import Compute
from lit_jax.tools.blend import blend, blended
from lit_jax.utils import checksums
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models `a`, `b` of one architecture; `norm`, `bias` of others; `large`, `words` with other processors."""
    folder = tmp_path_factory.mktemp("blend")
    processor = tiny.processor()
    processor.tokenizer.model_max_length = 20
    module, params = tiny.dual(0)
    saving.save(folder / "a", module, params, tiny.processor())
    saving.save(folder / "b", module, tiny.randomised(params, seed=1), processor)
    other = DualEncoder(tiny.dual_config(text=tiny.BERT | {"layer_norm_eps": 1e-5}))
    saving.save(folder / "norm", other, params, tiny.processor())
    saving.save(folder / "bias", module, params | {"logit_bias": np.float32(-3)}, tiny.processor())
    saving.save(folder / "large", module, params, tiny.processor(size=40))
    lower = tiny.processor()
    lower.tokenizer.add_tokens(["heron"])
    saving.save(folder / "words", module, params, lower)
    return folder


def params_of(folder):
    return load.read_dual(folder, Compute()).params


@pytest.mark.parametrize("alpha", [0.3, 0.0, 1.0])
def test_a_blend_equals_the_mean_in_numpy_and_its_ends_are_the_models(place, tmp_path, alpha):
    a, b = params_of(place / "a"), params_of(place / "b")
    a["text"]["embeddings"]["norm"]["bias"][0] = -0.0
    lit_jax.save(tmp_path / "a", DualEncoder(tiny.dual_config()), a, tiny.processor())
    blend(tmp_path / "a", place / "b", tmp_path / "between", alpha=alpha)
    assert checksums.damage(tmp_path / "between") is None
    got = params_of(tmp_path / "between")
    want = {0: a, 1: b}[alpha] if alpha in (0, 1) else mean(a, b, alpha)
    chex.assert_trees_all_equal(got, want)
    first = [params["text"]["embeddings"]["norm"]["bias"][0] for params in (got, want)]
    assert np.signbit(first[0]) == np.signbit(first[1])  # Also the sign of a zero.
    assert load_processor(tmp_path / "between").tokenizer.model_max_length == 20


def mean(a, b, alpha):
    return jax.tree.map(
        lambda x, y: ((1 - alpha) * np.float64(x) + alpha * np.float64(y)).astype(np.float32), a, b
    )


def test_blended_weights_are_not_summed_in_float32():
    a, b = {"x": np.float32([1e8, 3])}, {"x": np.float32([-1e8 + 8, 1e-9])}
    assert blended(a, b, 0.5)["x"].tolist() == [4.0, 1.5]
    assert blended(a, b, 0.5)["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("norm", r"differ in text\.layer_norm_eps \(1e-12, 1e-05\)"),
        ("bias", r"differ in logit_bias \(none, \(\)\)"),
        ("large", r"differ in image_processor\.size\.height \(32, 40\)"),
        ("words", r"differ in tokenizer\.added_tokens"),
    ],
)
def test_two_models_that_do_not_belong_together_are_refused_in_a_sentence(place, tmp_path, other, message):
    with pytest.raises(WeightError, match=message) as raised:
        blend(place / "a", place / other, tmp_path / "out", alpha=0.5)
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_an_alpha_outside_0_to_1_is_refused(place, tmp_path, alpha):
    with pytest.raises(ConfigError, match=r"alpha is .*; wanted 0 \(all of the first model\) to 1"):
        blend(place / "a", place / "b", tmp_path / "out", alpha=alpha)
