import chex
import numpy as np
import pytest

from lit_jax.models import dual_encoder
from lit_jax.models.weight_map import listed, table
from lit_jax.utils.errors import WeightError
from tests import tiny

LINEAR = table("""
    layer.{l}.dense.weight | layers/kernel | (h k) d -> d h k
    layer.{l}.dense.bias   | layers/bias   | (h k) -> h k
    scale                  | scale         |
""").bind(depth=2, h=3)


def tensors():
    rng = np.random.default_rng(0)
    stored = {f"layer.{i}.dense.weight": rng.normal(size=(6, 4)).astype(np.float32) for i in range(2)}
    stored |= {f"layer.{i}.dense.bias": rng.normal(size=6).astype(np.float32) for i in range(2)}
    return stored | {"scale": np.array(2.5, np.float32)}


SHAPES = {
    "layers": {"kernel": np.zeros((2, 4, 3, 2)), "bias": np.zeros((2, 3, 2))},
    "scale": np.zeros(()),
}


def test_a_kernel_is_transposed_split_into_heads_and_stacked():
    params = LINEAR.to_jax(tensors(), SHAPES)
    want = tensors()["layer.1.dense.weight"].reshape(3, 2, 4).transpose(2, 0, 1)
    np.testing.assert_array_equal(params["layers"]["kernel"][1], want)
    assert params["scale"].shape == ()


def test_the_way_back_gives_the_same_bits():
    back = LINEAR.to_hf(LINEAR.to_jax(tensors(), SHAPES))
    assert back.keys() == tensors().keys()
    for name, tensor in tensors().items():
        np.testing.assert_array_equal(back[name], tensor)
        assert back[name].flags["C_CONTIGUOUS"] and back[name].shape == tensor.shape


def test_a_missing_and_a_left_over_tensor_are_both_named():
    stored = tensors()
    stored["classifier.bias"] = stored.pop("layer.1.dense.bias")
    with pytest.raises(
        WeightError, match=r"missing.*layer\.1\.dense\.bias.*not in the table.*classifier\.bias"
    ):
        LINEAR.to_jax(stored, SHAPES)


def test_a_wrong_shape_is_named_with_the_expected_one():
    stored = tensors() | {"layer.0.dense.weight": np.zeros((6, 5), np.float32)}
    with pytest.raises(WeightError, match=r"layer\.0\.dense\.weight has shape \(6, 5\) .* wants \(6, 4\)"):
        LINEAR.to_jax(stored, SHAPES)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    stored = tensors()
    stored["layer.1.dense.bias"][2] = bad
    with pytest.raises(WeightError, match=r"layer\.1\.dense\.bias"):
        LINEAR.to_jax(stored, SHAPES)


def test_half_precision_becomes_float32_exactly():
    import ml_dtypes

    half = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors().items()}
    params = LINEAR.to_jax(half, SHAPES)
    assert params["layers"]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(
        params["layers"]["bias"][0].ravel(), half["layer.0.dense.bias"].astype(np.float32)
    )


def test_params_of_another_tree_are_refused():
    params = LINEAR.to_jax(tensors(), SHAPES)
    del params["layers"]["bias"]
    with pytest.raises(WeightError, match="layers/bias"):
        LINEAR.to_hf(params)


def test_a_long_list_of_names_is_cut_at_ten():
    assert listed([f"n{i:02}" for i in range(25)]).endswith("n09 and 15 more")


def test_the_tables_of_a_dual_encoder_cover_every_param():
    module, params = tiny.dual(vision=tiny.DINOV2)
    table = dual_encoder.weights(module.config)
    back = table.to_jax(table.to_hf(params), dual_encoder.param_shapes(module))
    chex.assert_trees_all_equal(back, params)


def test_rows_of_absent_parts_are_left_out():
    rows = table("a.w | a/kernel | d\na.b | a/bias | d\nb.w | b/kernel | d")
    assert rows.having({"a/bias": True, "b": True}) is rows
    assert [row.jax for row in rows.having({"a/bias": False, "a": True, "b": False}).rows] == ["a/kernel"]
