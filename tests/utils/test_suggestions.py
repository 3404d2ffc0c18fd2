"""The name that is suggested for one that does not exist."""

import pytest

from lit_jax.utils.suggestions import suggestion

SETS = ["imagenet_a", "imagenet_r", "imagenette", "imagenet2012", "eurosat", "cifar10", "cifar100"]


@pytest.mark.parametrize(
    ("name", "names", "meant"),
    [
        ("imagenet", SETS, "imagenet2012"),
        ("ImageNet-A", SETS, "imagenet_a"),
        ("cifar-100", SETS, "cifar100"),
        ("cifar1O", SETS, "cifar10"),
        ("zeroshot", [*SETS, "zero_shot"], "zero_shot"),
        ("xyz", SETS, None),
        ("", SETS, None),
        ("--modle", ["--labels", "--model"], "--model"),
    ],
)
def test_the_nearest_name_or_none_is_suggested(name, names, meant):
    assert suggestion(name, names) == meant
