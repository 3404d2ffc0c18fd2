"""Two locked towers: their outputs are cached, and only the heads are trained."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest

import lit_jax
from lit_jax.tools.export import export
from lit_jax.train import loop
from lit_jax.train.loop import train
from lit_jax.train.trained import read_trained
from lit_jax.utils.errors import ConfigError, DataError
from tests import tiny

OPTIONS = {
    "model__vision_pooling": "cls_mean",
    "model__text_pooling": "mean",
    "model__text_prompt": "a ",
    "model__vision_head": "mlp",
    "model__vision_head_config": {"hidden": [20], "dropout": 0.2, "skip": True},
    "model__text_head": "glu",
    "model__text_head_config": {"hidden": [12], "dropout": 0.1},
    "model__dtype": "float32",
    "mask_duplicates": True,
    "steps": 3,
}


def numbers(workdir):
    rows = [json.loads(row) for row in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name == "loss" or "test/" in name} for row in rows]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("frozen")


def run(folder, name, lock="LL", **changes):
    config = tiny.config(folder, model__lock_towers=lock, **{**OPTIONS, **changes})
    state = train(config, folder / name)
    return state, read_trained(folder / name).params, numbers(folder / name)


@pytest.mark.slow
def test_cached_and_uncached_towers_give_the_same_bits(place):
    _, params, metrics = run(place, "plain")
    for name, cache in (("both", True), ("vision", ("vision",)), ("text", ("text",))):
        _, same, others = run(place, name, cache=cache)
        chex.assert_trees_all_equal(same, params)
        assert others == metrics, name
    names = sorted(path.suffix for path in (place / "both" / "cache").iterdir())
    assert names == [".captions", ".npy", ".npy"]  # The train and test pairs are the same here.


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_caches_of_half_the_size_give_nearly_the_same_losses(dtype, place):
    *_, whole = run(place, f"whole {dtype}", cache=True, data__test="")
    *_, half = run(place, f"half {dtype}", cache=True, cache_dtype=dtype, data__test="")
    losses = np.array([[row["loss"] for row in rows] for rows in (half, whole)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)
    assert np.abs(losses[0] - losses[1]).max() > 0
    files = sorted(path.stat().st_size for path in (place / f"half {dtype}" / "cache").glob("*.npy"))
    wholes = sorted(path.stat().st_size for path in (place / f"whole {dtype}" / "cache").glob("*.npy"))
    assert all(a < 0.6 * b for a, b in zip(files, wholes, strict=True))


@pytest.mark.slow
def test_with_several_captions_a_step_on_the_cache_gives_the_same_bits(place):
    changes = {"data__captions_per_image": 2, "positives": "all", "data__test": ""}
    _, params, metrics = run(place, "several", **changes)
    _, same, others = run(place, "several cached", cache=True, **changes)
    chex.assert_trees_all_equal(same, params)
    assert others == metrics
    _, _, single = run(place, "several single", cache=True, data__test="")
    assert single[0]["loss"] != metrics[0]["loss"]


def test_more_captions_than_any_picture_has_are_refused(place):
    with pytest.raises(DataError, match=r"none has more than 2 captions.*captions_per_image=3.*set it to 2"):
        run(place, "too many", data__captions_per_image=3)
    for changes, message in (
        ({"positives": "all"}, "captions_per_image=1 draws one; set it to 2 or more"),
        (
            {"positives": "all", "data__captions_per_image": 2, "label_smoothing": 0.1},
            "label_smoothing=0.1 does not",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            run(place, "refused", **changes)


def test_a_step_on_cached_outputs_gets_and_contains_no_tower(place, monkeypatch):
    seen = []

    def watched(config, workdir, mesh, **options):
        setup = loop_open_setup(config, workdir, mesh, **options)
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(setup.state.locked["vision"]))

        def step(state, batch):
            if not seen:
                seen.append((state, batch, setup.training.step.lower(state, batch).as_text()))
                seen[0] = jax.tree.map(np.shape, state), dict(batch), seen[0][2]
            return setup.training.step(state, batch)

        return setup._replace(training=setup.training._replace(step=step))

    loop_open_setup = loop.open_setup
    monkeypatch.setattr(loop, "open_setup", watched)
    whole, _, _ = run(place, "watched", cache=("vision", "text"), data__test="")
    ((state, batch, program),) = seen
    assert state.locked == {} and not {"vision", "text"} & state.tuned.keys()
    assert batch.keys() == {"index", "pooled_images", "pooled_texts", "text_groups"}
    widths = {99, 48, 3 * 24}  # Sizes of BERT's vocabulary and layers: nothing in the program has them.
    assert not any(f"tensor<{n}x" in program or f"x{n}x" in program for n in widths)
    assert {"vision", "text"} == whole.locked.keys()


@pytest.mark.slow
def test_a_run_killed_while_both_caches_are_filled_ends_in_the_same_bits(place, monkeypatch):
    _, params, metrics = run(place, "straight", cache=True)
    for calls in (2, 5):  # There are nine batches, three of pictures and six of captions.
        left = [calls]

        def put_batch(*args, plain=loop.put_batch, left=left, **options):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return plain(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr("lit_jax.train.tower_cache.put_batch", put_batch)
            patch.setattr("lit_jax.train.caption_cache.put_batch", put_batch)
            with pytest.raises(KeyboardInterrupt):
                run(place, f"cut {calls}", cache=True)
        _, same, others = run(place, f"cut {calls}", cache=True)
        chex.assert_trees_all_equal(same, params)
        assert others == metrics
        assert not list((place / f"cut {calls}").rglob("*.part"))


def test_a_run_goes_on_without_its_towers_on_the_devices(place):
    _, params, _ = run(place, "once", cache=True, save_every=1, data__test="")
    config = tiny.config(place, model__lock_towers="LL", **{**OPTIONS, "cache": True, "save_every": 1})
    config["data"]["test"] = ""
    shutil.copytree(place / "once", place / "again")
    shutil.rmtree(place / "again/checkpoints/step_3")
    train(config, place / "again")
    chex.assert_trees_all_equal(read_trained(place / "again").params, params)


@pytest.mark.slow
@pytest.mark.parametrize("cache", [True, ("text",)])
def test_a_locked_text_tower_is_cached_beside_a_tuned_image_tower(cache, place):
    changes = {
        "model__vision_pooling": "pooler",
        "model__vision_head": "linear",
        "model__vision_head_config": {},
    }
    _, params, metrics = run(place, f"UL {cache}", "UL", cache=cache, data__augment="flip", **changes)
    before = tiny.dual(1, text=tiny.BERT)[1]["text"]
    chex.assert_trees_all_equal(params["text"], before)  # The text tower keeps its bits.
    if cache is True:
        _, same, other = run(place, "UL plain", "UL", data__augment="flip", **changes)
        chex.assert_trees_all_equal(same, params)
        assert other == metrics


@pytest.mark.slow
def test_features_are_standardised_by_the_cache_and_the_export_folds_this_in(place):
    changes = {
        "model__vision_head": "linear",
        "model__vision_head_config": {"standardise": True},
        "model__text_head_config": {"hidden": [12], "standardise": True},
    }
    _, params, _ = run(place, "standard", cache=True, **changes)
    cached = {}
    for path in (place / "standard" / "cache").glob("*.npy"):
        rows = np.load(path).astype(np.float64)
        cached["text" if path.with_suffix(".captions").exists() else "visual"] = rows
    assert len(cached["text"]) == 2 * len(cached["visual"])  # Two captions for each picture.
    for name, rows in cached.items():
        head = params[f"{name}_projection"]
        np.testing.assert_allclose(head["mean"], rows.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(head["deviation"], rows.std(axis=0), rtol=1e-4, atol=1e-6)
    export(place / "standard", place / "folded", layout="lit_jax")
    model = lit_jax.Embedder(place / "folded")
    assert model.config.own["vision_head"] == {"kind": "linear_bias"}
    kernel, bias = (np.asarray(model._params["visual_projection"][name]) for name in ("kernel", "bias"))
    want = (cached["visual"] - params["visual_projection"]["mean"]) / params["visual_projection"]["deviation"]
    want = want @ params["visual_projection"]["kernel"]
    np.testing.assert_allclose(cached["visual"] @ kernel + bias, want, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_micro_batches_draw_their_own_dropout(place):
    changes = {"batch_size": 16, "data__test": "", "cache": True, "micro_batch": 8}
    _, params, metrics = run(place, "parts", **changes)
    _, same, _ = run(place, "parts again", **changes)
    chex.assert_trees_all_equal(same, params)
    none = {
        "model__vision_head_config": {"hidden": [20], "skip": True},
        "model__text_head_config": {"hidden": [12]},
        "optim__peak_lr": 1e-3,
    }
    losses = [
        [
            row["loss"]
            for row in run(place, f"{size} of 16", **changes | none | {"micro_batch": size})[2]
            if "loss" in row
        ]
        for size in (8, 16)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert metrics[-1]["loss"] != losses[0][-1]


@pytest.mark.parametrize(
    ("lock", "changes", "message"),
    [
        (
            "LU",
            {"cache": ("text",)},
            "config.cache names 'text', whose outputs change, since lock_towers='LU' tunes",
        ),
        (
            "LL",
            {"cache": ("texts",)},
            "config.cache names 'texts'; wanted True, False, or names among vision, text",
        ),
        (
            "UU",
            {"cache": True},
            "config.cache=True needs an image tower that is locked as a whole, or a text tower",
        ),
        (
            "LL",
            {"model__text_head_config": {"standardise": True}},
            "config.model.text_head_config standardises features that are measured on the cache",
        ),
        (
            "LL",
            {"model__vision_head_config": {"hiden": [3]}},
            "config.model.vision_head 'mlp' has no field 'hiden'; its fields are hidden, activation",
        ),
        ("LL", {"model__vision_head": "identity", "model__vision_head_config": {}}, "keeps the 64 features"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_one_sentence(lock, changes, message, place):
    with pytest.raises(ConfigError) as raised:
        run(place, "wrong", lock, **changes)
    assert message in str(raised.value) and "\n" not in str(raised.value)
