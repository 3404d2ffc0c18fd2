"""One mesh, and a table that says which axis of each leaf is split over it."""

import chex
import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lit_jax.parallel.sharding import BATCH, check_batch, fsdp_rules, make_mesh, put_batch, shardings
from lit_jax.utils.errors import ConfigError


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, np.float32)


TREE = {
    "text": {
        "embeddings": {"word": {"embedding": shape(30522, 32)}, "norm": {"scale": shape(32)}},
        "layers": {
            "attn": {"query": {"kernel": shape(4, 32, 2, 16), "bias": shape(4, 2, 16)}},
            "mlp": {"up": {"kernel": shape(8, 32, 64)}, "down": {"kernel": shape(16, 6, 10)}},
        },
    },
    "vision": {"pos": shape(16, 32), "cls": shape(1, 1, 32), "patch": {"kernel": shape(4, 4, 3, 32)}},
    "logit_scale": shape(),
}


def specs(tree, fsdp):
    mesh = make_mesh(8 // fsdp, fsdp)
    return jax.tree.map(lambda s: s.spec, shardings(tree, mesh))


def test_a_mesh_covers_all_devices_with_automatic_axes():
    mesh = make_mesh()
    assert mesh.shape == {"data": 8, "fsdp": 1}
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert make_mesh(fsdp=2).shape == {"data": 4, "fsdp": 2}
    assert make_mesh(1, 4, jax.devices()[:4]).shape == {"data": 1, "fsdp": 4}


class Chip:
    """A device with nothing but its place."""

    platform = device_kind = "none"

    def __init__(self, number):
        self.slice_index, self.id = number // 4, number


def test_slices_split_the_data_and_a_parameter_stays_inside_one():
    chips = [Chip(i) for i in (4, 5, 6, 7, 0, 1, 2, 3)]
    for data, fsdp in ((2, 4), (4, 2), (8, 1)):
        mesh = make_mesh(-1, fsdp, chips)
        assert mesh.shape == {"data": data, "fsdp": fsdp} and mesh.axis_types == (AxisType.Auto,) * 2
        assert sorted(chip.id for chip in mesh.devices.flat) == list(range(8))
        assert all(len({chip.slice_index for chip in row}) == 1 for row in mesh.devices)
    with pytest.raises(
        ConfigError, match="fsdp=8 does not fit into one of the 2 slices of 4 devices: use one of 1, 2, 4"
    ):
        make_mesh(-1, 8, chips)


@pytest.mark.parametrize(
    ("data", "fsdp", "found"),
    [
        (3, 2, "8 devices: use data=4"),
        (-1, 3, "use one of 1, 2, 4, 8"),
        (0, 1, "use data=8"),
        (4, 1, "data=8"),
    ],
)
def test_a_mesh_that_the_devices_do_not_fill_is_refused(data, fsdp, found):
    with pytest.raises(ConfigError, match=found):
        make_mesh(data, fsdp)


def test_the_largest_divisible_axis_is_split():
    got = specs(TREE, 4)
    assert got["text"]["embeddings"]["word"]["embedding"] == P(None, "fsdp")  # 4 does not divide 30522.
    assert specs(TREE, 2)["text"]["embeddings"]["word"]["embedding"] == P("fsdp")
    assert got["text"]["layers"]["attn"]["query"]["kernel"] == P(None, "fsdp")
    assert got["text"]["layers"]["mlp"]["up"]["kernel"] == P(None, None, "fsdp")
    assert got["vision"]["patch"]["kernel"] == P(None, None, None, "fsdp")


def test_the_axis_of_the_layers_is_never_split():
    down = specs(TREE, 4)["text"]["layers"]["mlp"]["down"]["kernel"]
    assert down == P()  # [16, 6, 10]: only the axis of the layers divides by 4.


def test_small_leaves_are_whole_on_every_device():
    got = specs(TREE, 4)
    assert got["text"]["layers"]["attn"]["query"]["bias"] == P()
    assert got["text"]["embeddings"]["norm"]["scale"] == P()
    assert got["vision"]["pos"] == got["vision"]["cls"] == got["logit_scale"] == P()


def test_the_moments_of_the_optimiser_are_sharded_like_their_parameters():
    opt = jax.eval_shape(optax.adamw(1e-3).init, TREE)
    got = specs({"opt": opt, "tuned": TREE}, 4)
    for moments in (got["opt"][0].mu, got["opt"][0].nu):
        assert moments == got["tuned"]
    assert got["opt"][0].count == P()


def test_rules_of_the_recipe_hold_a_tower_whole_or_split_what_is_whole_by_default():
    opt = jax.eval_shape(optax.adamw(1e-3).init, TREE)
    rules = fsdp_rules((("vision/pos", "split"), ("vision/.*", "whole"), (".*/attn/query/bias", "split")))
    mesh = make_mesh(4, 2)
    state = jax.tree.map(lambda s: s.spec, shardings({"opt": opt, "tuned": TREE}, mesh, rules))
    for got in (state["tuned"], state["opt"][0].mu, state["opt"][0].nu):
        assert got["vision"]["patch"]["kernel"] == got["vision"]["cls"] == P()
        assert got["vision"]["pos"] == P(None, "fsdp")
        assert got["text"]["layers"]["attn"]["query"]["bias"] == P(None, None, "fsdp")  # Never the layers.
        assert got["text"]["layers"]["mlp"]["up"]["kernel"] == P(None, None, "fsdp")  # As without rules.
    with pytest.raises(ConfigError, match="'replicate': wanted 'split' or 'whole'"):
        fsdp_rules((("vision/.*", "replicate"),))
    with pytest.raises(ConfigError, match="not a regex"):
        fsdp_rules((("vision/(", "whole"),))


def test_put_batch_splits_the_rows_over_both_axes():
    mesh = make_mesh(4, 2)
    batch = {
        "images": np.arange(16 * 4 * 4 * 3, dtype=np.uint8).reshape(16, 4, 4, 3),
        "texts": {"input_ids": np.arange(16 * 5, dtype=np.int32).reshape(16, 5)},
    }
    got = put_batch(batch, mesh)
    assert got["images"].dtype == np.uint8
    assert got["images"].sharding == NamedSharding(mesh, BATCH)
    assert {s.data.shape for s in got["texts"]["input_ids"].addressable_shards} == {(2, 5)}
    chex.assert_trees_all_equal(got, batch)


@pytest.mark.parametrize("rows", [(12, 12), (16, 8), (0, 0)])
def test_put_batch_refuses_uneven_rows(rows):
    batch = {
        name: np.zeros((n, 3), np.float32) for name, n in zip(("pooled_images", "index"), rows, strict=True)
    }
    with pytest.raises(ConfigError, match="rows"):
        put_batch(batch, make_mesh())


def test_a_batch_that_the_mesh_does_not_divide_is_refused_with_the_next_sizes():
    mesh = make_mesh(4, 2)
    check_batch(64, mesh)
    with pytest.raises(ConfigError, match=r"60 pairs .* 8 devices .*data=4 x fsdp=2.* use 56 or 64"):
        check_batch(60, mesh)
    with pytest.raises(ConfigError, match=r"5 pairs .*use 8"):
        check_batch(5, mesh)
    with pytest.raises(ConfigError):
        check_batch(0, mesh)
