"""Muon makes matrices orthogonal, layer by layer, and leaves the rest to Adam."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from lit_jax.config import OptimConfig
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.models.encoders import VISION
from lit_jax.train.muon import RMS, matrix_of
from lit_jax.train.optim import make_optimizer
from tests import tiny


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


@pytest.fixture(scope="module")
def params():
    return tiny.dual(vision=tiny.VIT, text=tiny.MODERNBERT)[1]  # Its MLP is gated.


@pytest.fixture(scope="module")
def grads(params):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)


def first_update(params, grads, name, **options):
    config = OptimConfig(name, **{"clip_norm": None, "weight_decay": 0.0} | options)
    tx = make_optimizer(config, optax.constant_schedule(1.0))
    return jax.jit(lambda p, g: tx.update(g, tx.init(p), p)[0])(params, grads)


def matrices(path, x):
    """The matrices of a stacked kernel, as in the weight table of its architecture: torch's weights, transposed."""
    x = np.asarray(x, np.float64)
    if "/mlp/" in path:
        return np.moveaxis(x, 2, 1).reshape(-1, x.shape[1], x.shape[-1]) if x.ndim == 4 else x
    rows = x.shape[1] * x.shape[2] if "/out/" in path else x.shape[1]
    return x.reshape(x.shape[0], rows, -1)


def test_a_kernel_moves_along_its_singular_vectors_by_steps_of_one_size(params, grads):
    updates = flat(first_update(params, grads, "muon"))
    seen = 0
    for path, grad in flat(grads).items():
        if matrix_of(path, grad.ndim) is None:
            continue
        for g, update in zip(matrices(path, grad), matrices(path, updates[path]), strict=True):
            u, s, vt = np.linalg.svd(g, full_matrices=False)
            size = -np.diag(u.T @ update @ vt.T) / (RMS * np.sqrt(max(g.shape)))
            np.testing.assert_allclose(u.T @ update @ vt.T, np.diag(np.diag(u.T @ update @ vt.T)), atol=2e-4)
            # Muon's iteration aims at about one.
            assert size.max() < 1.25 and size[s > s.max() / 5].min() > 0.6, path
            seen += 1
    assert seen == 3 * 6 + 4 * 7


def test_what_is_not_a_matrix_moves_as_under_adamw(params, grads):
    muon, adamw = (flat(first_update(params, grads, name)) for name in ("muon", "adamw"))
    for path, update in muon.items():
        if matrix_of(path, update.ndim) is None:
            np.testing.assert_array_equal(update, adamw[path], err_msg=path)
        else:
            assert not np.allclose(update, adamw[path], atol=1e-2), path


@pytest.mark.slow
def test_decay_and_multipliers_hold_for_muon_too(params, grads):
    plain = flat(first_update(params, grads, "muon"))
    decayed = flat(first_update(params, grads, "muon", weight_decay=0.5, lr_multipliers=(("text/.*", 0.1),)))
    for path, x in flat(params).items():
        factor = 0.1 if path.startswith("text/") else 1.0
        decay = 0.5 * x if path.split("/")[-1] in ("kernel", "embedding") else 0.0
        np.testing.assert_allclose(decayed[path], factor * (plain[path] - decay), atol=1e-6, err_msg=path)


CONVOLUTIONS = "convnext|resnet|^bit$"  # Types without attention.
TOWERS = [hf for name, hf in tiny.TOWERS.items() if not re.search(CONVOLUTIONS, name)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("hf", TOWERS, ids=lambda hf: hf["model_type"])
def test_only_attention_and_mlp_of_the_layers_are_matrices_in_any_tower(hf):
    tower = "vision" if hf["model_type"] in VISION else "text"
    shapes = flat(dual_encoder.param_shapes(DualEncoder(tiny.dual_config(**{tower: hf}))))
    found = {path: leaf for path, leaf in shapes.items() if matrix_of(path, len(leaf.shape)) is not None}
    found = {path: leaf for path, leaf in found.items() if path.startswith(f"{tower}/")}
    assert {re.split("layers/|first/", path)[1] for path in found} == {
        *(f"attn/{name}/kernel" for name in ("query", "key", "value", "out")),
        *(f"mlp/{name}/kernel" for name in ("up", "down")),
    }
    for path, leaf in found.items():
        rows, columns = matrix_of(path, len(leaf.shape))
        inner = [leaf.shape[axis] for axis in (*rows, *columns)]
        gates = leaf.shape[-2] if len(leaf.shape) == 4 and "/mlp/" in path else 1
        layers = 1 if hf["model_type"] == "albert" or "/first/" in path else leaf.shape[0]
        assert np.prod(inner) * gates * layers == np.prod(leaf.shape), path
