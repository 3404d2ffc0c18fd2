"""An evaluation of a model that is no longer finite."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.parallel.sharding import make_mesh
from lit_jax.train import evaluation
from lit_jax.train.evaluation import Evaluation
from lit_jax.train.loop import train
from lit_jax.train.state import State
from lit_jax.utils.errors import NonFiniteError
from tests import tiny

GOOD = np.eye(4, dtype=np.float32)


@pytest.mark.parametrize("images, texts", [(GOOD + np.inf, GOOD), (GOOD, np.where(GOOD, np.nan, GOOD))])
def test_embeddings_that_are_not_finite_are_no_bad_data(images, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "EmbedRunner", lambda *_: None)
    monkeypatch.setattr(evaluation, "embed_images", lambda *_: images)
    monkeypatch.setattr(evaluation, "embed_texts", lambda *_: texts)
    ours = SimpleNamespace(
        setup=SimpleNamespace(mesh=make_mesh(), workdir=tmp_path),
        captions=(["a"] * 4, np.arange(4)),
        **dict.fromkeys(("source", "embed", "decode", "tokenize", "point", "pooled", "pooled_texts")),
    )
    state = State(step=jnp.int32(7), tuned={}, locked={}, opt=())
    with pytest.raises(
        NonFiniteError, match=r"embeddings after step 7 are not finite.*lower optim.peak_lr"
    ) as error:
        Evaluation.__call__(ours, state, 7)
    assert error.value.exit_code == 5 and not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_that_diverges_ends_as_one_that_is_not_finite(tmp_path):
    config = tiny.config(tmp_path, steps=40, eval_every=1, optim__peak_lr=1e6, optim__clip_norm=None)
    with pytest.raises(NonFiniteError, match=r"lower optim.peak_lr"):
        train(config, tmp_path / "run")
