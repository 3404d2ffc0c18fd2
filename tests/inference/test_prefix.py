"""Embeddings of a smaller width are the first numbers of whole ones, normalised again, wherever they are used."""

import json
import pickle

import numpy as np
import pytest

import lit_jax
from lit_jax.__main__ import main
from lit_jax.inference.embedder import Embedder
from lit_jax.inference.index import Index
from lit_jax.inference.prefix import prefix
from lit_jax.inference.search import find
from lit_jax.utils.errors import ConfigError
from tests import tiny

DIM, E = 6, 16
QUERY = "a red circle"
pytestmark = pytest.mark.usefixtures("loggers_as_they_were")


def cut(rows, dim=DIM):
    rows = np.asarray(rows, np.float64)[:, :dim]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def command(*args):
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    return ended.value.code


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefix")
    tiny.write_models_and_pictures(folder)
    return folder


@pytest.fixture(scope="module")
def model(place):
    return Embedder(place / "model")


@pytest.fixture(scope="module")
def index(place, model):
    """An index of whole vectors."""
    return lit_jax.embed(f"folder:{place / 'pairs'}", place / "index", model, shard_size=10)


@pytest.fixture(scope="module")
def narrow(place, index):
    """An index of their first numbers, made by the command."""
    pairs = f"folder:{place / 'pairs'}"
    options = ["--dim", DIM, "--shard-size", 10]
    assert command("embed", pairs, "--model", place / "model", "--output", place / "narrow", *options) == 0
    return Index.open(place / "narrow")


def rows_of(index):
    return np.concatenate([shard.embeddings for shard in index])


def test_an_embedder_of_a_width_gives_the_first_numbers(place, model):
    ours = Embedder(place / "model", dim=DIM)
    pictures = [place / "pairs" / f"{i:03}.png" for i in range(3)]
    assert (ours.width, model.width) == (DIM, E) and ours.fingerprint == model.fingerprint
    for again in (ours, pickle.loads(pickle.dumps(ours))):
        np.testing.assert_allclose(again.pictures(pictures), cut(model.pictures(pictures)), atol=1e-6)
        np.testing.assert_allclose(again.texts([QUERY]), cut(model.texts([QUERY])), atol=1e-6)
    tower = model.pictures(pictures, tower=True)
    np.testing.assert_array_equal(ours.pictures(pictures, tower=True), tower)
    np.testing.assert_allclose(ours.pooled(tower), cut(model.pooled(tower)), atol=1e-6)
    batch = ours({"text": np.array([QUERY]), "image": np.array([], object)})
    assert batch["text_embedding"].shape == (1, DIM) and batch["image_embedding"].shape == (0, DIM)


def test_zeros_stay_zeros_and_whole_vectors_are_unchanged():
    rows = np.array([[0, 0, 1], [3, 4, 0]], np.float32)
    np.testing.assert_allclose(prefix(rows, 2), [[0, 0], [0.6, 0.8]], rtol=1e-6)
    assert prefix(rows, 3) is rows and prefix(rows, None) is rows
    assert np.isnan(prefix(np.full((1, 3), np.nan, np.float32), 2)).all()


def test_an_index_of_a_width_has_cut_vectors_and_is_searched_with_cut_queries(place, model, index, narrow):
    assert (narrow.width, narrow.used) == (DIM, DIM)
    np.testing.assert_allclose(rows_of(narrow), cut(rows_of(index)), atol=1e-6)
    scores = cut(rows_of(index)) @ cut(model.texts([QUERY]))[0]
    for hits in (
        lit_jax.search(narrow, QUERY, model=model, top=24),
        lit_jax.search(narrow.folder, QUERY, top=24),  # This uses the model that the index names.
        lit_jax.search(narrow, QUERY, model=Embedder(place / "model", dim=DIM), top=24),
    ):
        np.testing.assert_allclose(
            [hit.score for hit in hits], scores[[hit.number for hit in hits]], atol=1e-5
        )
        assert sorted(hit.number for hit in hits) == list(range(24))


@pytest.mark.parametrize("screen", [False, True])
def test_a_search_of_a_width_cuts_the_vectors_of_a_whole_index(place, model, index, screen):
    scores = cut(rows_of(index)) @ cut(model.texts([QUERY]))[0]
    opened = Index.open(index.folder, screen=screen, dim=DIM)
    hits = lit_jax.search(opened, QUERY, model=model, top=5)
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:5], atol=1e-5)
    again = lit_jax.search(Index.open(index.folder, screen=screen), QUERY, model=model, top=5, dim=DIM)
    narrow = find(
        Index.open(index.folder, screen=screen), cut(model.texts([QUERY])).astype(np.float32), 5, model.mesh
    )
    for other in (again, narrow[0]):
        assert [hit.id for hit in other] == [hit.id for hit in hits]
        np.testing.assert_allclose([hit.score for hit in other], [hit.score for hit in hits], atol=1e-6)


def test_the_commands_accept_a_width(place, model, tmp_path):
    picture, said = place / "pairs" / "003.png", tmp_path / "said.json"
    labels = ["red square", "blue circle"]
    asked = ["classify", picture, "--model", place / "model", "--labels", ",".join(labels), "--dim", DIM]
    assert command(*asked, "--json", said) == 0
    logits = model.scale * (cut(model.texts(labels)) @ cut(model.pictures(picture))[0])
    wanted = np.exp(logits) / np.exp(logits).sum()
    shares = json.loads(said.read_text())[0]["labels"]
    np.testing.assert_allclose([shares[label] for label in labels], wanted, atol=1e-5)
    assert command("search", place / "index", "--query", QUERY, "--dim", DIM, "--json", said) == 0
    hits = lit_jax.search(place / "index", QUERY, dim=DIM)
    assert [hit["id"] for hit in json.loads(said.read_text())] == [hit.id for hit in hits]


@pytest.mark.slow
def test_an_evaluation_of_a_width_says_so_and_can_be_compared_with_that_of_whole_vectors(
    place, model, tmp_path
):
    results = {}
    for name, options in (("whole", []), ("cut", ["--dim", DIM])):
        asked = ["evaluate", "--model", place / "model", "--data", f"folder:{place / 'pairs'}", *options]
        assert command(*asked, "--json", tmp_path / f"{name}.json") == 0
        results[name] = json.loads((tmp_path / f"{name}.json").read_text())
    assert results["cut"]["protocol"]["retrieval"]["dim"] == DIM
    assert "dim" not in results["whole"]["protocol"]["retrieval"]
    assert results["cut"]["words"]["retrieval"]["dim"] == "the first 6 numbers of each embedding"
    assert results["cut"]["fingerprints"] == results["whole"]["fingerprints"]
    assert results["cut"]["metrics"] != results["whole"]["metrics"]


@pytest.mark.usefixtures("any_types")
@pytest.mark.parametrize("dim", [0, E + 1, 2.5])
def test_a_width_that_the_vectors_do_not_have_is_refused(place, model, index, dim):
    wanted = rf"dim is {dim}, and the vectors of .*{{}} have 16 numbers; give 1 to 16"
    with pytest.raises(ConfigError, match=wanted.format("model")):
        Embedder(place / "model", dim=dim)
    with pytest.raises(ConfigError, match=wanted.format("index")):
        lit_jax.search(index, QUERY, model=model, dim=dim)


def test_another_width_in_the_same_folder_or_embedder_is_refused(place, model, narrow, index):
    pairs = f"folder:{place / 'pairs'}"
    for folder, dim in ((index.folder, DIM), (narrow.folder, None), (narrow.folder, 5)):
        with pytest.raises(ConfigError, match="is an index of another dim; give another folder"):
            lit_jax.embed(pairs, folder, place / "model", shard_size=10, dim=dim)
    with pytest.raises(
        ConfigError, match="dim is 6, and the Embedder gives 16 numbers; give dim to the Embedder"
    ):
        lit_jax.embed(pairs, place / "new", model, dim=DIM)
