"""A task of mteb on a folder in the layout of sentence-transformers gives the numbers of our vectors."""

import numpy as np
import pytest
from PIL import Image

import lit_jax
from lit_jax.inference.embedder import Embedder, Opened
from tests import tiny

mteb = pytest.importorskip("mteb")
pytest.importorskip("sentence_transformers")

ABOUT = {
    "name": "TinyT2IRetrieval",
    "description": "Finds drawings by their captions.",
    "reference": "https://example.org",
    "dataset": {"path": "local/drawings", "revision": "1"},
    "type": "Any2AnyRetrieval",
    "category": "t2i",
    "modalities": ["text", "image"],
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "main_score": "ndcg_at_10",
}


def task_of(pictures, texts):
    """A retrieval task in which text i belongs to picture i."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    names = [f"p{i}" for i in range(len(pictures))]

    class TinyT2IRetrieval(AbsTaskRetrieval):
        metadata = TaskMetadata(**ABOUT)

        def load_data(self, *_, **__):
            corpus = Dataset.from_dict({"id": names, "image": pictures})
            queries = Dataset.from_dict({"id": [f"q{i}" for i in range(len(texts))], "text": texts})
            relevant = {f"q{i}": {name: 1} for i, name in enumerate(names)}
            split = {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return TinyT2IRetrieval()


def test_a_task_of_mteb_gives_the_numbers_of_our_vectors(tmp_path):
    from mteb.models import SentenceTransformerEncoderWrapper
    from sentence_transformers import SentenceTransformer

    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (36, 40, 3), dtype=np.uint8)) for _ in range(12)]
    texts = [" ".join(rng.choice(tiny.WORDS[4:], 6)) for _ in pictures]
    model = (*tiny.dual(), tiny.processor())
    lit_jax.save(tmp_path, *model, layout="sentence_transformers")
    theirs = SentenceTransformerEncoderWrapper(SentenceTransformer(str(tmp_path), device="cpu"))
    theirs.mteb_model_meta.modalities = ["text", "image"]  # It looks for them only on the Hub.
    results = mteb.evaluate(theirs, task_of(pictures, texts), cache=None, overwrite_strategy="always")
    scores = results.task_results[0].scores["test"][0]
    embedder = Embedder(Opened("tiny", *model))
    similarities = embedder.texts(texts) @ embedder.pictures(pictures).T
    ranks = (similarities > np.diag(similarities)[:, None]).sum(1)
    gains = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0)
    assert scores["recall_at_5"] == pytest.approx((ranks < 5).mean(), abs=1e-4)
    assert scores["ndcg_at_10"] == pytest.approx(gains.mean(), abs=1e-4)
