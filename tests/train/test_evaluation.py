"""Evaluations at several widths, and of a model that is no longer finite."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.config import ModelConfig
from lit_jax.evals.retrieval import retrieval
from lit_jax.parallel.sharding import make_mesh
from lit_jax.train import evaluation
from lit_jax.train.evaluation import Evaluation
from lit_jax.train.loop import train
from lit_jax.train.state import State
from lit_jax.utils.errors import NonFiniteError
from tests import tiny

GOOD = np.eye(4, dtype=np.float32)


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """The metrics of embeddings in an evaluation after step 7, with or without widths of prefixes."""

    def call(images, texts, widths=()):
        monkeypatch.setattr(evaluation, "EmbedRunner", lambda *_: None)
        monkeypatch.setattr(evaluation, "embed_images", lambda *_: images)
        monkeypatch.setattr(evaluation, "embed_texts", lambda *_: texts)
        config = SimpleNamespace(model=ModelConfig("", "", matryoshka=widths))
        ours = SimpleNamespace(
            setup=SimpleNamespace(mesh=make_mesh(), workdir=tmp_path, config=config),
            captions=(["a"] * len(texts), np.arange(len(texts))),
            **dict.fromkeys(("source", "embed", "decode", "tokenize", "point", "pooled", "pooled_texts")),
        )
        return Evaluation.__call__(ours, State(step=jnp.int32(7), tuned={}, locked={}, opt=()), 7)

    return call


def test_the_recalls_of_a_width_are_those_of_embeddings_that_are_cut(evaluated):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(50, 6)).astype(np.float32)
    images, texts = (unit(images + noise) for noise in (0, rng.normal(size=images.shape)))
    found, whole = evaluated(images, texts, (2, 6)), evaluated(images, texts)
    assert {name: found[name] for name in whole} == whole and len(found) == len(whole) + 2 * 6
    for width in (2, 6):
        cut = retrieval(unit(images[:, :width]), unit(texts[:, :width]), np.arange(50))
        for name in (name for name in cut if "recall" in name):
            assert found[f"test/{name}/{width}"] == cut[name], name
    assert found["test/image_to_text_recall@5/2"] < found["test/image_to_text_recall@5/6"]


@pytest.mark.parametrize("images, texts", [(GOOD + np.inf, GOOD), (GOOD, np.where(GOOD, np.nan, GOOD))])
def test_embeddings_that_are_not_finite_are_not_reported_as_bad_data(images, texts, tmp_path, evaluated):
    with pytest.raises(
        NonFiniteError, match=r"embeddings after step 7 are not finite.*lower optim.peak_lr"
    ) as error:
        evaluated(images, texts)
    assert error.value.exit_code == 5 and not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_that_diverges_ends_as_one_that_is_not_finite(tmp_path):
    config = tiny.config(tmp_path, steps=40, eval_every=1, optim__peak_lr=1e6, optim__clip_norm=None)
    with pytest.raises(NonFiniteError, match=r"lower optim.peak_lr"):
        train(config, tmp_path / "run")
