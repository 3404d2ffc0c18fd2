"""Plans: what is locked and split, the arithmetic, and, where libtpu is, a compiled step."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest

import lit_jax
from lit_jax import config
from lit_jax.tools.plan import plan as door
from lit_jax.tools.plan.topology import GIB, chip_of
from lit_jax.train.loop import train
from lit_jax.utils.errors import ConfigError
from tests import tiny
from tests.tools.plan.test_parameters import CONFIGS, ROOT, config_of, small

QWEN3_8B = {  # As Qwen3-Embedding-8B is.
    "model_type": "qwen3",
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12_288,
    "vocab_size": 151_665,
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_names_the_topology_that_it_was_planned_for(path):
    assert chip_of(config_of(path).topology)


READ_AS = {"cache": "cached"}  # The towers that the field means.


def test_every_field_of_a_config_is_read_by_a_run_or_its_plan(tmp_path, monkeypatch):
    """The very objects are watched; what copies or compares them as a whole does not count."""
    package, seen = Path(lit_jax.__file__).parent, set()
    groups = (
        config.TrainConfig,
        config.ModelConfig,
        config.DataConfig,
        config.OptimConfig,
        config.MeshConfig,
    )

    def watched(self, name):
        reader = Path(sys._getframe(1).f_code.co_filename)
        if reader.is_relative_to(package) and reader.parent.name != "config":
            seen.add((type(self), name))
        return object.__getattribute__(self, name)

    for group in groups:
        monkeypatch.setattr(group, "__getattribute__", watched)
    changes = {"steps": 2, "optim__warmup_steps": 1, "cache": True, "data__captions_per_image": 2}
    train(tiny.config(tmp_path, **changes), tmp_path / "run")
    with pytest.raises(ConfigError, match="topology"):
        door.plan(small(topology=""))
    missed = [
        f"{group.__name__}.{field.name}"
        for group in groups
        for field in dataclasses.fields(group)
        if (group, READ_AS.get(field.name, field.name)) not in seen
    ]
    assert not missed, f"these change nothing: {', '.join(missed)}"


@pytest.mark.parametrize("topology", ["", "v9:2x4", "v5e"])
def test_an_unknown_slice_is_refused(topology):
    with pytest.raises(ConfigError, match="wanted one of v4, v5e, v5p, v6e and a shape"):
        door.plan(small(topology=topology))


@pytest.fixture
def libtpu(monkeypatch):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, of lit_jax[tpu], compiles for TPUs and is not installed")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


@pytest.mark.slow
def test_a_step_is_compiled_for_a_slice_and_its_parts_add_up(libtpu):
    whole, parts = door.plan(small()), door.plan(small(micro_batch=32), embed=False)
    assert set(whole["embed"]) == {"images", "texts"} and not parts["embed"]
    assert whole["chips"] == 8 and whole["fits"] and whole["pairs_a_chip"] == 8 and parts["pairs_a_chip"] == 4
    # The loss gathers the embeddings of one tower: each device's rows of logits serve both directions.
    assert whole["collectives"]["all-gather"]["bytes"] == 64 * 512 * 4
    assert whole["flops"] == parts["flops"] and 0 < whole["recomputed"] < 0.02 * whole["executed"]
    # Parts embed the texts twice.
    assert parts["recomputed"] >= parts["flops"]["text forward"] and parts["executed"] > whole["executed"]
    assert set(whole["traffic"]) == {"vision", "text", "rest"} and min(whole["traffic"].values()) > 0
    assert whole["embed"]["images"]["executed"] >= whole["flops"]["image forward"]
    # Eight products for a similarity, computed twice, and six for each of two gradients.
    assert whole["loss_share"] * whole["seconds"]["arithmetic"] * 197e12 * 8 == pytest.approx(
        28 * 2 * 64 * 64 * 512
    )


@pytest.mark.slow
def test_a_product_of_float32_numbers_is_six_of_bfloat16(libtpu):
    config = small()
    found = door.plan(config | {"model": config["model"] | {"dtype": "float32"}})
    split = 2 * 8 * 2 * 64 * 64 * 512 / 8  # Those of the loss's similarities are of bfloat16 already.
    assert found["seconds"]["arithmetic"] * 197e12 == pytest.approx(6 * (found["executed"] - split) + split)


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_fits_the_slice_that_it_names_and_arithmetic_binds(path, libtpu):
    found = door.plan(config_of(path))
    assert found["fits"] and found["binds"] == "arithmetic", found
    assert all(cost["fits"] for cost in found["embed"].values())


@pytest.mark.slow
def test_512_pairs_a_chip_of_lit_take_no_more_than_was_promised(libtpu):
    config = config_of(ROOT / "configs" / "lit_b16_bert.py")
    config.batch_size, config.micro_batch, config.model.remat = 4096, 0, "products"
    found = door.plan(config, "v5e:2x4")
    assert found["peak"] <= 6 * GIB and sum(found["traffic"].values()) <= 80e9
    assert found["recomputed"] <= 0.05 * found["executed"] and found["binds"] == "arithmetic"


@pytest.mark.slow
def test_texts_that_share_half_of_the_rows_take_half_of_the_arithmetic_and_send_nothing(libtpu):
    found, packed = (door.plan(config_of_rows(share)) for share in (1.0, 0.5))
    for part in ("text forward", "text backward"):
        assert packed["flops"][part] == pytest.approx(found["flops"][part] / 2, rel=1e-3)
    assert packed["executed"] < found["executed"] and packed["peak"] < found["peak"]
    assert packed["collectives"] == found["collectives"]


def config_of_rows(share):
    config = small()
    return config | {"model": config["model"] | {"text_rows": share}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "topology, batch_size, micro_batch, how, precision, loss",
    [
        ("v5e:2x4", 32_768, 16_384, "gathered", "float32", 0.03),
        ("v5e:16x16", 1_048_576, 131_072, "ring", "float32", 0.45),
        ("v5e:16x16", 1_048_576, 131_072, "ring", "bfloat16", 0.15),
    ],
)
def test_larger_batches_of_lit_fit_as_well(topology, batch_size, micro_batch, how, precision, loss, libtpu):
    config = config_of(ROOT / "configs" / "lit_b16_bert.py")
    config.batch_size, config.micro_batch, config.loss_how = batch_size, micro_batch, how
    config.loss_precision = precision
    found = door.plan(config, topology)
    assert found["fits"] and found["pairs_a_chip"] * found["chips"] == micro_batch
    assert found["loss_share"] <= loss


@pytest.mark.slow
def test_the_largest_micro_batch_that_fits_is_found(libtpu, monkeypatch):
    peak = door.plan(small())["peak"]
    monkeypatch.setattr(door, "FITS", (peak - 1) / (16 * GIB))  # As if the chip were as small as this model.
    best, peaks = door.find_batch(small())
    assert best < 64 and peaks[best] < peak and min(n for n in peaks if n > best) <= 64
    monkeypatch.setattr(door, "FITS", 0.0)
    with pytest.raises(ConfigError, match="not even a micro-batch of 8 pairs fits v5e:2x4"):
        door.find_batch(small())


@pytest.mark.slow
def test_a_program_that_does_not_fit_is_told_in_a_sentence(libtpu):
    config = config_of(ROOT / "configs" / "lit_b16_bert.py")
    config.model.remat, config.micro_batch = "none", 0
    with pytest.raises(door.NoRoom, match=r"does not fit a chip of v5e:2x4: .*; lower micro_batch"):
        door.plan(config)


@pytest.mark.slow
def test_a_step_is_compiled_for_two_slices(libtpu):
    found = door.plan(small(mesh={"data": -1, "fsdp": 4}), slices=2)
    assert (found["slices"], found["chips"], found["mesh"]) == (2, 16, {"data": 4, "fsdp": 4})
    with pytest.raises(ConfigError, match="fsdp=16 does not fit into one of the 2 slices of 8 devices"):
        door.plan(small(mesh={"data": -1, "fsdp": 16}), slices=2)


@pytest.mark.slow
def test_a_text_tower_of_8b_embeds_captions_on_eight_chips(libtpu):
    config = config_of(ROOT / "configs" / "frozen_towers.py")
    config.model.text_config = QWEN3_8B
    config.model.text_pooling, config.model.locked_dtype = "last", "bfloat16"
    config.mesh.data, config.mesh.fsdp, config.batch_size = 1, 8, 512
    found = door.plan(config, "v5e:2x4")
    assert found["fits"] and not found["traffic"].get("text")  # The step moves no tower.
    assert found["embed"]["texts"]["fits"] and found["embed"]["texts"]["peak"] < 4 * GIB
