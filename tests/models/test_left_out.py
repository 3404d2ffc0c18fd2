"""Every type of transformers' AutoModel is read, or there is a reason why not."""

import pytest

from lit_jax.models.composites import COMPOSITES
from lit_jax.models.dual_config import encoder_of
from lit_jax.models.encoders import TEXT, VISION
from lit_jax.models.left_out import _REASONS, answers, reason_of
from lit_jax.utils._transformers import auto_model_types, transformers
from lit_jax.utils.errors import WeightError

NAMES = [name for names in _REASONS.values() for name in names.split()]
KNOWN = tuple(map(int, transformers.__version__.split(".")[:2]))


def test_every_type_of_auto_model_is_read_or_has_a_reason_and_no_other_type_has_one():
    types = auto_model_types()
    rows = answers(types)
    assert rows.keys() == {*types, *VISION, *TEXT, *COMPOSITES}
    assert {name for name, answer in rows.items() if answer.startswith("yes")} == {
        *VISION,
        *TEXT,
        *COMPOSITES,
        "timm_wrapper",  # Read by hf/conversions/timm.py.
    }
    if KNOWN == (5, 24):  # Other versions know other types.
        assert [name for name, answer in rows.items() if answer == "not written"] == []
        assert [name for name in NAMES if name not in types] == []
    assert answers(["a_new_type"])["a_new_type"] == "not written"


def test_a_type_that_is_left_out_has_one_reason_and_no_reader():
    assert len(NAMES) == len(set(NAMES))
    assert not {*NAMES} & {*VISION, *TEXT, *COMPOSITES}


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_a_type_that_is_left_out_is_refused_by_its_name_with_the_reason(tower):
    for name in (*NAMES, "aimv2", "owlvit"):
        with pytest.raises(WeightError) as error:
            encoder_of(tower, name)
        assert repr(name) in str(error.value) and str(reason_of(name)) in str(error.value)
