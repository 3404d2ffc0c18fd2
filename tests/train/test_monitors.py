"""The monitors of a batch equal those in NumPy, on any mesh, and however the step is divided."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from lit_jax.models.layers.spec import Compute
from lit_jax.parallel.sharding import put_batch
from lit_jax.train.loop import train
from lit_jax.train.monitors import monitors
from lit_jax.train.partition import combine, lock_rules
from lit_jax.train.state import init_state
from tests import tiny
from tests.steps import make_step, mesh_of

PLAIN = {"loss", "grad_norm", "skipped", "logit_scale"}


def unit(rng, rows, width, rank=None):
    x = rng.normal(size=(rows, rank or width)) @ rng.normal(size=(rank or width, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def reference(images, texts):
    """The monitors in float64, each by its own definition."""
    found = {}
    x, y = images.astype(np.float64), texts.astype(np.float64)
    others = ~np.eye(len(x), dtype=bool)
    for name, rows in (("image", x), ("text", y)):
        sizes = np.linalg.svd(rows, compute_uv=False)
        shares = sizes / np.abs(sizes).sum() + 1e-7
        found[f"{name}_rank"] = np.exp(-(shares * np.log(shares)).sum())
        squares = ((rows[:, None] - rows[None]) ** 2).sum(-1)
        found[f"{name}_uniformity"] = np.log(np.exp(-2 * squares[others]).mean())
    found["alignment"] = (np.linalg.norm(x - y, axis=1) ** 2).mean()
    cosines = x @ y.T
    found["margin"] = np.diag(cosines).mean() - cosines[others].mean()
    return {f"monitor/{name}": value for name, value in found.items()}


def close(found, want):
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("rows", "width", "rank"), [(64, 24, None), (16, 24, None), (64, 24, 3)], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (8, 1), (4, 2)], ids=str)
def test_monitors_equal_numpy_on_every_mesh(shape, rows, width, rank):
    rng = np.random.default_rng(rows)
    images, texts = unit(rng, rows, width, rank), unit(rng, rows, width)
    mesh = mesh_of(*shape)
    grads = {"vision": {"a": np.float32(3), "b": np.float32(4)}, "logit_scale": np.float32(-2)}
    placed = put_batch({"images": images, "texts": texts}, mesh)
    found = jax.jit(lambda x, y: monitors(x, y, jnp.float32(8), grads, mesh))(*placed.values())
    want = reference(images, texts)
    close(found, want)
    assert found.keys() - want.keys() == {
        "monitor/temperature",
        "monitor/grad_norm/vision",
        "monitor/grad_norm/logit_scale",
    }
    assert found["monitor/temperature"] == 1 / 8
    assert found["monitor/grad_norm/vision"] == 5 and found["monitor/grad_norm/logit_scale"] == 2
    assert abs(float(found["monitor/image_rank"]) - (rank or min(rows, width))) < (0.5 if rank else 7)


class Unit(nn.Module):
    """Two towers of one matrix each, with unit rows."""

    compute: Compute = Compute()

    @nn.compact
    def __call__(self, texts=None, pooled_images=None, train=()):
        images, texts = nn.Dense(8, name="vision")(pooled_images), nn.Dense(8, name="text")(texts["x"])
        images, texts = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (images, texts))
        return images, texts, jnp.exp(self.param("logit_scale", nn.initializers.constant(2.0), ()))


TX = optax.sgd(0.1)
BATCHES = [
    {"pooled_images": unit(rng, 16, 6), "texts": {"x": unit(rng, 16, 5)}}
    for rng in map(np.random.default_rng, range(2))
]


def steps(lock, mesh, **options):
    """The states before and after each of two batches, the metrics of each, and the lowered step as text."""
    state = init_state(Unit().init(jax.random.key(0), **BATCHES[0])["params"], lock_rules(lock), TX, mesh)
    step = make_step(Unit(), mesh, TX, **options)
    states, rows = [jax.device_get(state)], []
    for batch in BATCHES:
        state, row = step(state, put_batch(batch, mesh))
        states.append(jax.device_get(state))
        rows.append(jax.device_get(row))
    return states, rows, step.lower(state, put_batch(batch, mesh)).as_text()


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("lock", "shape", "options"),
    [("UU", (1, 1), {}), ("LU", (8, 1), {"loss_how": "ring"}), ("UU", (2, 2), {"micro_batch": 4})],
    ids=str,
)
def test_a_step_monitors_its_own_batch_and_still_learns_the_same(lock, shape, options):
    mesh = mesh_of(*shape)
    plain, without, text = steps(lock, mesh, **options)
    watched, rows, with_them = steps(lock, mesh, monitor_every=2, **options)
    chex.assert_trees_all_equal(watched, plain)
    assert set(without[0]) == PLAIN and "svd" not in text and "stablehlo.case" not in text
    assert "stablehlo.case" in with_them
    assert all(np.isnan(value) for name, value in rows[0].items() if name not in PLAIN)

    before = plain[1]  # The state before the second batch.
    params = {"params": combine(before.tuned, before.locked)}
    images, texts, scale = Unit().apply(params, **BATCHES[1])
    close(rows[1], reference(np.asarray(images), np.asarray(texts)))
    np.testing.assert_allclose(rows[1]["monitor/temperature"], 1 / scale, rtol=1e-6)
    norms = {name: value for name, value in rows[1].items() if "grad_norm/" in name}
    assert norms.keys() == {f"monitor/grad_norm/{name}" for name in before.tuned}
    np.testing.assert_allclose(sum(v**2 for v in norms.values()), rows[1]["grad_norm"] ** 2, rtol=1e-5)


@pytest.mark.slow
def test_a_run_writes_monitors_at_their_interval_to_its_files_and_not_to_the_screen(tmp_path, capsys):
    config = tiny.config(tmp_path, steps=4, log_every=4, data__test="", monitor_every=2)
    train(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    watched = {row["step"]: row for row in rows if "monitor/alignment" in row}
    assert list(watched) == [2, 4]
    assert all(
        0 <= row["monitor/alignment"] <= 4 and row["monitor/image_rank"] >= 1 for row in watched.values()
    )
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
    assert len(shown) == 1 and "monitor" not in shown[0]
