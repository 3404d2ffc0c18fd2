"""EVA towers of timm that would not be computed exactly are refused by name."""

import numpy as np
import pytest

import lit_jax
from lit_jax.utils.errors import WeightError
from tests.hf.conversions import foreign

EVA_CHANGES = [
    (
        {"architecture": "vit_small_patch16_rope_224"},
        "'vit_small_patch16_rope_224' of timm is not implemented",
    ),
    ({"architecture": "eva02_gross_patch14_224"}, "'eva02_gross_patch14_224' of timm is not implemented"),
    ({"global_pool": "avgmax"}, "with the pooling 'avgmax' is not implemented; token and avg are"),
    ({"model_args": {"rope_temperature": 50.0}}, r"with rope_temperature=50\.0 is not implemented"),
    ({"model_args": {"init_values": 0.1}}, r"with init_values=0\.1 is not implemented"),
    ({"model_args": {"num_heads": 7}}, "does not divide into num_attention_heads=7"),
    ({"model_args": {"num_heads": 32}}, "heads a width of 2; wanted a multiple of four"),
]


@pytest.mark.parametrize(("change", "said"), EVA_CHANGES, ids=[str(change) for change, _ in EVA_CHANGES])
def test_an_eva_that_is_not_implemented_is_refused_by_name(change, said, tmp_path, text):
    foreign.assert_refused("eva02_scaled", change, said, tmp_path, text)


def test_tensors_that_no_eva_has_or_that_it_lacks_are_named(tmp_path, text):
    for name in ("eva", "eva02", "eva02_scaled"):
        model = foreign.stored(name)
        extra = {"blocks.0.gamma_1": np.ones(64, np.float32)}
        with pytest.raises(WeightError, match=r"not in the table: blocks\.0\.gamma_1"):
            lit_jax.from_towers(foreign.write(tmp_path / f"{name}_more", model, **extra), text)
        for lost in ("blocks.1.norm1.bias", "pos_embed", "cls_token"):
            with pytest.raises(WeightError, match=f"missing from the checkpoint: {lost}|pos_embed has shape"):
                lit_jax.from_towers(foreign.write(tmp_path / f"{name}_{lost}", model, without=(lost,)), text)
