"""An evaluation of a model that is no longer finite."""

import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.data.sources.registry import open_source
from lit_jax.data.transforms.image_processor import make_decode
from lit_jax.data.transforms.tokenizer import make_tokenize
from lit_jax.inference.embed_step import Embed
from lit_jax.parallel.sharding import make_mesh
from lit_jax.train import evaluation
from lit_jax.train.evaluation import Evaluation
from lit_jax.utils.errors import NonFiniteError
from tests import tiny


@pytest.mark.parametrize("tower", ["images", "texts"])
def test_embeddings_that_are_not_finite_end_the_run_as_such_and_not_as_bad_data(tower, tmp_path, monkeypatch):
    source = open_source(tiny.write_pairs(tmp_path / "pairs"))
    good, bad = np.eye(48, dtype=np.float32), np.full((48, 48), np.nan, np.float32)
    monkeypatch.setattr(evaluation, "embed_images", lambda *_: (bad if tower == "images" else good)[:24])
    monkeypatch.setattr(evaluation, "embed_texts", lambda *_: bad if tower == "texts" else good)
    monkeypatch.setattr(evaluation, "combine", lambda *_: {})

    class Setup:
        mesh, workdir = make_mesh(), tmp_path

    class State:
        tuned = locked = None

    step = Embed(*[lambda *_: jnp.zeros(1)] * 4)
    tokenize = make_tokenize(tiny.tokenizer(), 12)
    evaluate = Evaluation(Setup, source, step, make_decode(tiny.image_processor()), tokenize, lambda *_: None)
    with pytest.raises(NonFiniteError, match=r"embeddings after step 7 are not finite.*lower optim.peak_lr"):
        evaluate(State, 7)
    assert not (tmp_path / "ranks").exists()
