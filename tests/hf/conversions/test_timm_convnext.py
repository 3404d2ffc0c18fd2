"""ConvNeXts of timm that would not be computed exactly are refused by name."""

import numpy as np
import pytest

import lit_jax
from lit_jax.utils.errors import WeightError
from tests.hf.conversions import foreign
from tests.hf.conversions.test_timm import joined

OF_CONVNEXTS = [
    (
        "convnext",
        {"architecture": "convnext_atto_ols"},
        "'convnext_atto_ols' of timm is not implemented; ConvNeXts with",
    ),
    ("convnext", {"architecture": "convnext_atto_rms"}, "'convnext_atto_rms' of timm is not implemented"),
    ("convnext", {"model_args": {"kernel_sizes": 5}}, "convnext_tiny with kernel_sizes=5 is not implemented"),
    ("convnext", {"model_args": {"stem_type": "overlap"}}, "with stem_type='overlap' is not implemented"),
    ("convnext", {"model_args": {"act_layer": "relu"}}, "with act_layer 'relu' is not implemented"),
    ("convnext", {"model_args": {"norm_eps": "x"}}, "norm_eps='x' is not usable"),
    ("convnext", {"global_pool": "avgmax"}, "convnext_tiny with the pooling 'avgmax' is not implemented"),
    (
        "convnextv2",
        {"model_args": {"norm_eps": 1e-5}},
        "with a norm_eps of 1e-05 and its last norm after the pooling is not implemented; for a ConvNeXt v2",
    ),
    (
        "vit",
        {"architecture": "convnext_tiny", "model_args": {}, "global_pool": "avg"},
        r"missing from the checkpoint: stages\.0\.blocks\.0\.mlp\.fc1",
    ),
]


@pytest.mark.parametrize(
    ("name", "change", "said"), OF_CONVNEXTS, ids=[str(case[1]) for case in OF_CONVNEXTS]
)
def test_a_convnext_that_is_not_implemented_is_refused_by_name(name, change, said, tmp_path, text):
    foreign.assert_refused(name, change, said, tmp_path, text)


def test_a_convnext_whose_tensors_do_not_fit_its_name_is_refused(tmp_path, text):
    for i, (name, said) in enumerate(
        {
            "stem.0.weight": r"stem\.0\.weight has shape \(8, 3, 3, 3\); wanted a convolution of 4x4",
            "stages.1.blocks.0.conv_dw.weight": r"stages\.1\.layers\.0\.dwconv\.weight",
            "stages.3.blocks.0.extra": r"not in the table: stages\.3\.blocks\.0\.extra",
        }.items()
    ):
        folder = foreign.write(
            tmp_path / str(i), foreign.stored("convnext"), **{name: np.ones((8, 3, 3, 3), np.float32)}
        )
        with pytest.raises(WeightError, match=said):
            lit_jax.from_towers(folder, text)


def test_a_convnext_without_its_last_norm_is_refused(tmp_path, text):
    norm = ("head.norm.weight", "head.norm.bias")
    with pytest.raises(
        WeightError, match=r"missing from the checkpoint: head\.norm\.bias, head\.norm\.weight"
    ):
        lit_jax.from_towers(foreign.write(tmp_path, foreign.stored("convnextv2"), without=norm), text)


def test_a_hidden_layer_after_the_pooling_of_a_convnext_is_left_out_if_the_config_says_so(tmp_path, text):
    model = foreign.stored("convnext")
    config = model["files"]["config.json"]
    config["architecture"] = "convnext_large_mlp"
    hidden = {"head.pre_logits.fc.weight": (32, 32), "head.pre_logits.fc.bias": (32,)}
    hidden = {name: foreign.drawn(name, shape) for name, shape in hidden.items()}
    with pytest.raises(
        WeightError, match=r'head\.pre_logits\) .* write "head_hidden_size": null into the model_args'
    ):
        lit_jax.from_towers(foreign.write(tmp_path / "a", model, **hidden), text)
    config["model_args"]["head_hidden_size"] = None
    loaded = joined(foreign.write(tmp_path / "b", model, **hidden), text)
    pooled = loaded.module.apply({"params": loaded.params}, foreign.images(64), method="pool_images")
    np.testing.assert_allclose(pooled, model["pooled"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("args", "eps"), [({}, 1e-5), ({"norm_eps": None}, 1e-6), ({"norm_eps": 1e-3}, 1e-3)], ids=str
)
def test_the_eps_of_a_convnext_comes_from_the_name_or_the_arguments(args, eps, tmp_path, text):
    model = foreign.stored("convnext_eps")
    model["files"]["config.json"]["model_args"] |= args
    module, _ = lit_jax.from_towers(foreign.write(tmp_path, model), text)
    assert module.config.vision.layer_norm_eps == eps
