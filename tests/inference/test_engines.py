"""An Embedder inside other engines: pickled, called with batches of columns, in Ray Data and in Beam."""

import importlib.util
import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lit_jax
from lit_jax.inference.embedder import Embedder
from tests import tiny

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
N = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    lit_jax.save(folder / "model", *tiny.dual(), tiny.processor())
    tiny.write_pairs(folder / "pairs", N)
    (folder / "pairs" / "metadata.jsonl").unlink()
    return folder


@pytest.fixture(scope="module")
def model(place):
    return Embedder(place / "model", batch_size=3, text_length=9)


@pytest.fixture(scope="module")
def paths(place):
    return sorted(map(str, (place / "pairs").glob("*.png")))


@pytest.fixture(scope="module")
def rows(model, paths):
    return model.pictures(paths)


def test_a_pickled_embedder_gives_the_same_embeddings(model, paths, rows, tmp_path):
    copy = pickle.loads(pickle.dumps(model))
    assert (copy.fingerprint, copy.batch_size, copy.text_length) == (model.fingerprint, model.batch_size, 9)
    np.testing.assert_array_equal(copy.pictures(paths), rows)
    np.testing.assert_array_equal(copy.texts(["a red dog"]), model.texts(["a red dog"]))


def test_a_batch_of_columns_gains_the_embeddings_of_its_pictures_and_texts(model, paths, rows):
    texts = np.array(["a red dog", "the cat"] * 3)
    found = model({"path": np.array(paths), "caption": texts, "key": np.arange(N)})
    assert list(found) == ["path", "caption", "key", "image_embedding", "text_embedding"]
    np.testing.assert_array_equal(found["image_embedding"], rows)
    np.testing.assert_array_equal(found["text_embedding"], model.texts(texts.tolist()))
    files = np.array([Path(path).read_bytes() for path in paths], object)
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    for batch in ({"bytes": files}, {"image": pixels}, {"image": files, "bytes": texts}):
        np.testing.assert_array_equal(model(batch)["image_embedding"], rows)
    empty = model({"image": np.zeros(0, object), "text": np.zeros(0, object)})
    assert empty["image_embedding"].shape == empty["text_embedding"].shape == (0, 16)
    with pytest.raises(lit_jax.ConfigError, match=r"has the columns jpg; want image or bytes or path"):
        model({"jpg": files})


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Beam looks for its functions there.
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_ray_data_embeds_what_one_process_embeds(place, paths, rows, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    import pyarrow.parquet as pq

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 << 20)
    try:
        example("embed_with_ray").embed(str(place / "model"), str(place / "pairs"), str(tmp_path / "out"))
    finally:
        ray.shutdown()
    found = pq.read_table(tmp_path / "out").to_pydict()
    by_path = dict(zip(found["path"], found["image_embedding"], strict=True))
    assert set(by_path) == set(paths)
    np.testing.assert_allclose([by_path[path] for path in paths], rows, atol=1e-5)


@pytest.mark.slow
def test_beam_embeds_what_one_process_embeds(place, paths, rows, tmp_path):
    pytest.importorskip("apache_beam")
    beam = example("embed_with_beam")
    beam.embed(str(place / "model"), f"{place}/pairs/*.png", str(tmp_path / "out"), "--runner=DirectRunner")
    lines = [json.loads(line) for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    by_path = {line["path"]: line["embedding"] for line in lines}
    assert set(by_path) == set(paths)
    np.testing.assert_allclose([by_path[path] for path in paths], rows, atol=1e-5)


@pytest.mark.parametrize("kind", ["Flat", "IVF1,Flat"])
def test_faiss_finds_in_a_converted_index_what_a_search_finds(place, model, tmp_path, kind):
    pytest.importorskip("faiss")
    lit_jax.embed(f"folder:{place / 'pairs'}", tmp_path / "index", model)
    faiss = example("search_with_faiss")
    faiss.convert(str(tmp_path / "index"), str(tmp_path / "out"), kind)
    query = model.texts(["a red dog"])[0]
    got = faiss.search(str(tmp_path / "out"), query, N)
    want = lit_jax.search(tmp_path / "index", "a red dog", model=model, top=N)
    assert [name for name, _ in got] == [hit.id for hit in want]
    np.testing.assert_allclose([score for _, score in got], [hit.score for hit in want], atol=1e-6)
