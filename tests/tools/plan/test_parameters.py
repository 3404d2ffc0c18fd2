"""What a recipe's numbers say: what is locked and split, and the arithmetic."""

import runpy
from pathlib import Path

import pytest

import lit_jax
from lit_jax import config as recipe
from lit_jax.data.transforms.train_decode import make_train_decode
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.tools.plan import parameters
from lit_jax.train import build
from lit_jax.utils._transformers import transformers
from lit_jax.utils.console import table
from lit_jax.utils.errors import ConfigError
from tests import tiny
from tests.bad_pictures import encoded, noise

ROOT = Path(lit_jax.__file__).parents[1]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem != "quickstart")


def config_of(path, *arguments):
    return runpy.run_path(str(path))["get_config"](*arguments)


def small(**changes):
    tree = {
        "steps": 10,
        "batch_size": 64,
        "topology": "v5e:2x4",
        "model": {"vision": "", "text": "", "vision_config": tiny.VIT, "text_config": tiny.BERT},
        "data": {"train": "", "text_length": 12},
    }
    return tree | changes


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_parameter_is_locked_decayed_and_split_as_when_it_was_last_looked_at(path):
    found = table(parameters.COLUMNS, parameters.parameters(config_of(path))) + "\n"
    golden = ROOT / "tests" / "golden" / f"{path.stem}.txt"
    # To accept a change: lit-jax plan --config configs/NAME.py --parameters > tests/golden/NAME.txt
    assert found == golden.read_text(), f"{golden.name} says otherwise"


def test_a_locked_tower_is_whole_and_a_tuned_one_split_as_when_it_was_last_looked_at():
    config = config_of(ROOT / "configs" / "lit_l16_bert.py")
    config.mesh.fsdp, config.mesh.fsdp_rules = 8, (("vision/.*", "whole"),)
    found = table(parameters.COLUMNS, parameters.parameters(config)) + "\n"
    golden = ROOT / "tests" / "golden" / "lit_l16_bert_fsdp.txt"
    # To accept a change: as above, with --config.mesh.fsdp 8 --config.mesh.fsdp_rules "(('vision/.*', 'whole'),)"
    assert found == golden.read_text(), f"{golden.name} says otherwise"


def test_adapters_are_listed_and_their_backward_pass_is_one_of_inputs():
    model = small()["model"] | {"lock_towers": "LA", "locked_dtype": "bfloat16", "lora_rank": 4}
    rows = {row[0]: row[1:] for row in parameters.parameters(small(model=model, optim={"weight_decay": 0.1}))}
    path = "text/adapters/layers/attn/query"
    assert rows[f"{path}/a/kernel"] == ("3x24x4", "tuned", "1", "0.1", "float32", "-", "1152")
    assert rows[f"{path}/b/kernel"] == ("3x4x24", "tuned", "1", "0.1", "float32", "-", "1152")
    assert rows["text/adapters/alpha"] == ("1", "locked", "-", "-", "int32", "-", "4")
    assert rows["text/layers/attn/query/kernel"][1:5] == ("locked", "-", "-", "bfloat16")
    found = recipe.read_config(small(model=model), empty=recipe.NEEDLESS)
    flops = parameters.arithmetic(found, DualEncoder(parameters.config_of(found)))
    assert flops["text backward"] == flops["text forward"] and "image backward" not in flops


def test_the_arithmetic_is_that_of_the_published_sizes():
    config = small(
        batch_size=512,
        model={
            "vision": "",
            "text": "",
            "vision_config": {"model_type": "vit"},
            "text_config": {"model_type": "bert"},
        },
        data={"train": "", "text_length": 32},
    )
    read = recipe.read_config(config, empty=recipe.NEEDLESS)
    module = DualEncoder(parameters.config_of(read), build.compute_of(read.model, "tpu"))
    found = parameters.arithmetic(read, module)
    width, hidden, patches = 768, 3072, 196

    def tower(tokens):  # Projections, MLP, and both products of the attention, of 12 layers.
        return 12 * (2 * tokens * (4 * width * width + 2 * width * hidden) + 4 * tokens * tokens * width)

    pooler = 2 * width * width
    image = tower(patches + 1) + 2 * patches * (16 * 16 * 3) * width + pooler
    text = tower(32) + pooler + 2 * width * 512
    assert found["image forward"] == 512 * image and found["text forward"] == 512 * text
    assert found["text backward"] == 2 * 512 * text and "image backward" not in found


def test_the_loss_of_prefixes_multiplies_as_many_numbers_as_they_have():
    model = small()["model"] | {"projection_dim": 16}
    for widths, numbers in (((), 16), ((4, 16), 20), ((4, 8), 12)):
        read = recipe.read_config(small(model=model | {"matryoshka": widths}), empty=recipe.NEEDLESS)
        found = parameters.arithmetic(read, DualEncoder(parameters.config_of(read)))
        assert found["loss forward"] == 2 * read.batch_size**2 * numbers


@pytest.mark.parametrize("vision", [tiny.VIT, tiny.DINOV2], ids=["vit", "dinov2"])
def test_the_arithmetic_of_a_rectangle_is_that_of_a_square_of_as_many_patches(vision):
    found = []
    for size in (32, (16, 64)):
        model = small()["model"] | {"vision_config": vision, "image_size": size}
        read = recipe.read_config(small(model=model), empty=recipe.NEEDLESS)
        found.append(parameters.arithmetic(read, DualEncoder(parameters.config_of(read))))
    less = found[1]["image forward"] - found[0]["image forward"]
    assert (
        0 <= less < 0.01 * found[0]["image forward"]
    )  # DINOv2 resizes its positions to the rectangle in each step.
    assert less == 0 or vision is tiny.DINOV2


def test_the_planned_picture_has_the_shape_of_the_decoded_one():
    processor = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    for augment in ("none", "flip", "crop"):
        tower = {name: value for name, value in tiny.SIGLIP2_VISION.items() if name != "vision_use_head"}
        tree = small(model=small()["model"] | {"vision_config": tower})
        tree["data"]["augment"] = augment
        read = recipe.read_config(tree, empty=recipe.NEEDLESS)
        decoded = make_train_decode(processor, augment=augment)(encoded(noise((50, 40))))
        assert parameters.picture_shape(read, parameters.config_of(read)) == decoded.shape


def test_numbers_without_a_type_are_refused():
    with pytest.raises(ConfigError, match="vision_config has no model_type"):
        parameters.parameters(small(model={"vision": "", "text": "", "vision_config": {"image_size": 32}}))


def test_a_tower_locked_by_rules_alone_has_no_backward_pass_either():
    model = small()["model"] | {"lock_towers": "uU", "lock_rules": (("vision/.*", "lock"),)}
    read = recipe.read_config(small(model=model), empty=recipe.NEEDLESS)
    found = parameters.arithmetic(read, DualEncoder(parameters.config_of(read)))
    assert "image backward" not in found and found["text backward"] == 2 * found["text forward"]
