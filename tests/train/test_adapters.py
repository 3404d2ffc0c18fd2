"""Adapters of a locked tower: what they add, what of them is tuned and saved, and what cannot have any."""

import shutil

import chex
import jax
import numpy as np
import pytest
from flax import traverse_util

from lit_jax.config import ModelConfig
from lit_jax.hf import load
from lit_jax.parallel.sharding import put_batch
from lit_jax.tools.export import export
from lit_jax.tools.plan.plan import held
from lit_jax.train.adapters import merged, with_adapters
from lit_jax.train.build import locks_of
from lit_jax.train.loop import train
from lit_jax.train.partition import combine, partition
from lit_jax.train.state import abstract_state, init_state
from lit_jax.utils.errors import ConfigError
from tests import tiny
from tests.steps import MODULE, PIXELS, TX, batch_of, make_step, mesh_of, params_of_module

RANK, ALPHA = 4, 6
KERNELS = {  # Path -> shape of the kernel; einsum from a and b to it; shapes of a and of b.
    "text/layers/attn/query/kernel": ((2, 6, 3, 5), "ldr,lrx->ldx", (2, 6, RANK), (2, RANK, 15)),
    "text/layers/attn/out/kernel": ((2, 3, 5, 6), "lxr,lrd->lxd", (2, 15, RANK), (2, RANK, 6)),
    "text/layers/mlp/up/kernel": ((2, 6, 2, 7), "lgdr,lgrf->ldgf", (2, 2, 6, RANK), (2, 2, RANK, 7)),
    "text/layers/mlp/down/kernel": ((2, 7, 6), "ldr,lrf->ldf", (2, 7, RANK), (2, RANK, 6)),
    "text/pooler/kernel": ((6, 6), "dr,rf->df", (6, RANK), (RANK, 6)),
}


def model(letters="LA", targets=(".*/attn/(query|value)/kernel",), **options):
    options = {"lora_rank": RANK, "lora_alpha": ALPHA} | options
    return ModelConfig("v", "t", lock_towers=letters, lora_targets=targets, **options)


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


@pytest.mark.parametrize("path", KERNELS)
def test_the_product_of_its_adapter_is_added_to_a_kernel(path):
    shape, product, of_a, of_b = KERNELS[path]
    kernel = drawn(*shape)
    params = flat(
        with_adapters(traverse_util.unflatten_dict({path: kernel}, sep="/"), model(targets=(path,)))
    )
    name = path.removesuffix("/kernel").replace("text/", "text/adapters/")
    assert (params[f"{name}/a/kernel"].shape, params[f"{name}/b/kernel"].shape) == (of_a, of_b)
    # b begins as zero.
    assert merged(params).keys() == {path} and np.array_equal(merged(params)[path], kernel)
    a, b = drawn(*of_a), drawn(*of_b)
    params |= {f"{name}/a/kernel": a, f"{name}/b/kernel": b}
    want = kernel + ALPHA / RANK * np.einsum(product, a, b, dtype=np.float64).reshape(shape)
    on_device = merged(jax.tree.map(jax.numpy.asarray, params))
    for got in (merged(params), on_device, jax.jit(merged)(params)):
        np.testing.assert_allclose(got[path], want, rtol=1e-6, atol=1e-6)
        assert got[path].dtype == np.float32
    shapes = merged(jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), params))
    assert (shapes[path].shape, shapes[path].dtype) == (shape, np.float32)


def test_an_adapter_begins_as_in_peft_and_depends_only_on_the_seed_and_its_path():
    params = {"text": {"layers": {"attn": {n: {"kernel": drawn(2, 64, 4, 8)} for n in ("query", "value")}}}}
    first, again, other = (flat(with_adapters(params, model(), seed=seed)) for seed in (0, 0, 1))
    a = {name: first[f"text/adapters/layers/attn/{name}/a/kernel"] for name in ("query", "value")}
    chex.assert_trees_all_equal(first, again)
    for other_one in (a["value"], other["text/adapters/layers/attn/query/a/kernel"]):
        assert not np.array_equal(a["query"], other_one)
    # kaiming_uniform_ with a slope of sqrt(5): within 1 / sqrt(64), evenly.
    assert 0.95 / 8 < np.abs(a["query"]).max() < 1 / 8 and abs(a["query"].std() * 8 - 3**-0.5) < 0.03
    assert not np.any(first["text/adapters/layers/attn/value/b/kernel"])
    assert first["text/adapters/alpha"] == ALPHA


@pytest.mark.parametrize(
    ("letters", "targets", "message"),
    [
        ("LA", (".*/qeury/kernel",), r"model.lora_targets: '\.\*/qeury/kernel' matches none of the .* paths"),
        ("LA", ("vision/.*",), r"model.lora_targets: 'vision/\.\*' matches none"),
        ("AA", ("text/.*/query/kernel",), r"match no kernel of vision/, and lock_towers='AA' wants adapters"),
        (
            "AL",
            ("vision/.*",),
            r"match vision/embeddings/patch/kernel of shape .* no matrix of a linear layer",
        ),
    ],
)
def test_targets_that_cannot_have_adapters_are_refused_in_a_sentence(letters, targets, message):
    with pytest.raises(ConfigError, match=message) as raised:
        with_adapters(tiny.dual()[1], model(letters, targets))
    assert "\n" not in str(raised.value)


def test_only_adapters_are_tuned_in_the_towers_and_have_moments():
    config = model()
    params = with_adapters(params_of_module(), config)
    tuned, locked = partition(params, locks_of(config))
    adapters = {path for path in flat(tuned) if path.startswith(("vision/", "text/"))}
    assert adapters == {
        f"text/adapters/layers/attn/{name}/{side}/kernel" for name in ("query", "value") for side in "ab"
    }
    assert flat(locked).keys() - flat(params_of_module()).keys() == {"text/adapters/alpha"}
    before = params_of_module()
    chex.assert_trees_all_equal(combine(tuned, locked), before)
    state = abstract_state(params, locks_of(config), TX, mesh_of(1, 1), average=True)
    size = 4 * sum(x.size for x in jax.tree.leaves(tuned))
    bytes_of = held(state)
    assert bytes_of["tuned"] == bytes_of["gradients"] == bytes_of["average"] == size
    assert 2 * size <= bytes_of["optimiser"] <= 2 * size + 16  # Plus a count or two.
    assert bytes_of["locked"] == 4 + 4 * sum(
        np.size(x) for name in ("vision", "text") for x in jax.tree.leaves(before[name])
    )
    split = held(abstract_state(params, locks_of(config), TX, mesh_of(4, 2), average=True))
    assert size / 2 < split["average"] == split["tuned"] < 0.7 * size


@pytest.mark.slow
def test_a_run_with_adapters_saves_them_alone_and_exports_the_merged_model(tmp_path):
    options = {
        "steps": 4,
        "data__test": "",
        "model__lock_towers": "LA",
        "optim__ema": 0.5,
        "model__lora_alpha": 16,
    }
    config = tiny.config(tmp_path, mesh={"data": 4, "fsdp": 2}, **options)
    before = tiny.write_tower(tmp_path / "same", tiny.BERT, seed=1)
    straight = train(config, tmp_path / "run")
    steps = tmp_path / "run" / "checkpoints"
    sizes = {
        name: sum(f.stat().st_size for f in (steps / name).rglob("*") if f.is_file())
        for name in ("step_4/tuned", "step_4/opt", "step_4/ema", "locked")
    }
    assert sizes["step_4/opt"] < sizes["locked"] and sizes["step_4/tuned"] < sizes["locked"] / 2
    shutil.rmtree(steps / "step_4")
    again = train(config, tmp_path / "run")
    parts = [(s.step, s.tuned, s.locked, s.opt, s.ema) for s in (straight, again)]
    chex.assert_trees_all_equal(*parts)
    base = {path: leaf for path, leaf in flat(again.locked["text"]).items() if path != "adapters/alpha"}
    chex.assert_trees_all_equal(base, flat(before))
    got = load.load(export(tmp_path / "run", tmp_path / "out"))[1]
    want = jax.device_get(again.evaluated)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7), jax.device_get(got), want
    )
    query = "layers/attn/query/kernel"
    assert not np.array_equal(flat(want["text"])[query], flat(before)[query])
    assert "locked, with tuned adapters (LoRA)" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ConfigError, match=r"another config \(model.lora_rank: 8, now 4\)"):
        train(tiny.config(tmp_path, mesh=config["mesh"], model__lora_rank=4, **options), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"micro_batch": 8}], ids=str)
def test_steps_change_adapters_equally_on_every_mesh_and_the_tower_stays(options):
    config = model("AA")
    params = with_adapters(params_of_module(), config)
    losses = []
    for shape in ((1, 1), (4, 2)):
        mesh = mesh_of(*shape)
        state = init_state(params, locks_of(config), TX, mesh)
        step = make_step(MODULE, mesh, pixels=PIXELS, dropout=(), **options)
        rows = []
        for number in range(4):
            state, metrics = step(state, put_batch(batch_of(number), mesh))
            rows.append(float(metrics["loss"]))
        losses.append(rows)
        kept = {path: x for path, x in flat(state.locked).items() if not path.endswith("/alpha")}
        chex.assert_trees_all_equal(kept, {path: flat(params)[path] for path in kept})
        assert all(np.any(x) for path, x in flat(state.tuned).items() if "/b/" in path)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
