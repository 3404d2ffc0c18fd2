"""The statistics of batch norms never change, whatever is tuned."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

import lit_jax
from lit_jax.config import ModelConfig
from lit_jax.hf import model_folder
from lit_jax.hf.join import join_towers
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.parallel.sharding import make_mesh
from lit_jax.tools.export import export
from lit_jax.train.build import locks_of
from lit_jax.train.loop import train
from lit_jax.train.partition import partition
from lit_jax.train.state import abstract_state
from lit_jax.train.trained import read_trained
from tests import tiny

STATISTICS = ("running_mean", "running_var")


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def statistics(tree):
    return {path: leaf for path, leaf in flat(tree).items() if path.endswith(STATISTICS)}


@pytest.fixture(scope="module")
def shapes():
    return dual_encoder.param_shapes(DualEncoder(tiny.dual_config(vision=tiny.RESNET)))


@pytest.mark.parametrize(
    ("letters", "rules"),
    [("UU", ()), ("uU", ()), ("LU", (("vision/.*", "tune"),)), ("UU", ((".*/norm/.*", "tune"),))],
    ids=str,
)
def test_statistics_are_locked_whatever_letters_and_rules_say(letters, rules, shapes):
    model = ModelConfig("", "", lock_towers=letters, lock_rules=rules)
    tuned, locked = partition(shapes, locks_of(model, tuple(flat(shapes))))
    assert flat(locked).keys() == statistics(shapes).keys()
    # The stem, first layers with shortcuts, and other layers.
    assert len(statistics(shapes)) == 2 * (1 + 2 * 4 + 2 * 3)
    assert not statistics(tuned) and "vision/stem/norm/scale" in flat(tuned)


def test_kernels_are_split_over_fsdp_and_statistics_have_no_moments(shapes):
    mesh = make_mesh(4, 2)
    state = abstract_state(shapes, locks_of(ModelConfig("", "", lock_towers="UU")), optax.adam(1e-3), mesh)
    assert not statistics(state.opt[0].mu)
    leaves = flat(state.tuned["vision"]) | flat(state.locked["vision"])
    split = {path for path, leaf in leaves.items() if not leaf.sharding.is_fully_replicated}
    assert split == {path for path in leaves if path.endswith("kernel")}


@pytest.mark.slow
@pytest.mark.parametrize("letters", ["LU", "UU", "uU"])
def test_a_run_keeps_the_statistics_and_tunes_the_rest_of_a_tuned_tower(letters, tmp_path):
    tiny.write_towers(tmp_path, vision=tiny.RESNET)
    tiny.write_pairs(tmp_path / "pairs")
    config = tiny.config(
        tmp_path, steps=3, data__test="", model__lock_towers=letters, model__locked_dtype="bfloat16"
    )
    config["mesh"] = {"data": 4, "fsdp": 2}
    train(config, tmp_path / "run")
    params = read_trained(tmp_path / "run").params["vision"]
    loaded = join_towers(ModelConfig(str(tmp_path / "v"), str(tmp_path / "t")))
    if letters == "uU":  # From scratch, they keep their initial values.
        starts = dict(zip(STATISTICS, (0, 1), strict=True))
        assert all((leaf == starts[path.split("/")[-1]]).all() for path, leaf in statistics(params).items())
        return
    before, after = flat(loaded.params["vision"]), flat(params)
    for path, leaf in before.items():
        if letters == "LU" and not path.endswith(STATISTICS):
            leaf = leaf.astype(jnp.bfloat16)
        assert np.array_equal(after[path], leaf) == (letters == "LU" or path.endswith(STATISTICS)), path
    export(tmp_path / "run", tmp_path / "out", layout="towers")
    stored, written = (
        model_folder.Tensors.of(folder) for folder in (tmp_path / "v", tmp_path / "out" / "vision")
    )
    for name in stored:
        if name.endswith(STATISTICS):
            np.testing.assert_array_equal(written[name], stored[name], err_msg=name)
            assert written[name].dtype == np.float32
            assert name.rpartition(".")[0] + ".num_batches_tracked" in written
    export(tmp_path / "run", tmp_path / "own", layout="lit_jax")
    assert lit_jax.load(tmp_path / "own")[0].config.vision_type == "resnet"
