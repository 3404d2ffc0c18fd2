"""Indexes of int8 and of signs: what they store, how many of float32's hits their searches find, and their size."""

import json
import os
import shutil

import numpy as np
import pytest

import lit_jax
from lit_jax.__main__ import main
from lit_jax.data.sources.registry import open_source
from lit_jax.inference.embedder import Embedder
from lit_jax.inference.filtering import Rules, choose
from lit_jax.inference.index import Index
from lit_jax.inference.index_files import Shard, paths_of, write_shard
from lit_jax.inference.precision import PRECISIONS, arrays, decoded, signs
from lit_jax.inference.screen import Rows
from lit_jax.inference.search import find
from lit_jax.inference.sign_screen import SignScreen, _differing
from lit_jax.parallel.sharding import make_mesh
from lit_jax.utils.errors import ConfigError, DataError
from tests import tiny

QUERY = "a red circle"
ABOUT = {"model": "m", "fingerprint": "f", "source": "s", "source_fingerprint": "s", "format": "npy"}
pytestmark = pytest.mark.usefixtures("loggers_as_they_were")


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(rng, n, centres, noise=0.7):
    rows = rng.normal(size=(n, centres.shape[1])).astype(np.float32) * noise / centres.shape[1] ** 0.5
    return unit(rows + centres[rng.integers(len(centres), size=n)])


def written(folder, rows, precision, size):
    """An index of these rows, without a model."""
    folder.mkdir()
    shards = -(-len(rows) // size)
    for number in range(shards):
        part = rows[number * size : (number + 1) * size]
        ids = [str(number * size + i) for i in range(len(part))]
        write_shard(paths_of(folder, "npy", number, shards, precision), Shard(part, ids))
    manifest = {"pictures": len(rows), "width": rows.shape[1], "shard_size": size, "precision": precision}
    (folder / "manifest.json").write_text(json.dumps(ABOUT | manifest))
    return folder


def bytes_of(folder, *kinds):
    """The size in bytes of the vector files of these kinds."""
    return sum(path.stat().st_size for kind in kinds for path in folder.glob(f"{kind}-*.npy"))


def recall(folder, queries, truth, k=10, **options):
    """The share of the `k` nearest by float32 that a search finds."""
    hits = find(Index.open(folder, **options), queries, k, make_mesh())
    wanted = np.argsort(-truth, axis=1)[:, :k]
    return np.mean(
        [
            len({hit.number for hit in row} & set(best)) / k
            for row, best in zip(hits, wanted.tolist(), strict=True)
        ]
    )


def test_a_number_is_stored_as_the_nearest_of_256_levels_of_its_column():
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(300, 7)) * [1, 1, 50, 1e-3, 1, 0, 1] + [0, 3, 0, 0, 0, 2, 0])
    ranges, codes = arrays(rows, PRECISIONS["int8"])
    np.testing.assert_array_equal(ranges, [rows.min(0), rows.max(0)])
    low, high = np.float64(ranges)
    step = np.where(high > low, (high - low) / 255, 1)
    np.testing.assert_array_equal(codes, np.rint((rows - low) / step) - 128)
    assert codes.dtype == np.int8 and codes[:, :5].min() == -128 and codes[:, :5].max() == 127
    near = low + (codes + 128.0) * (high - low) / 255
    assert (np.abs(near - rows) <= step / 2 + 1e-7).all()
    found = decoded(codes, ranges)
    assert found.shape == (300, 7) == (len(found), 7) and found.dtype == np.float32
    np.testing.assert_allclose(np.asarray(found), unit(near), atol=1e-6)
    np.testing.assert_array_equal(found[[3, 5]], np.asarray(found)[[3, 5]])
    np.testing.assert_array_equal(found[10:12], np.asarray(found)[10:12])
    np.testing.assert_array_equal(found[-1], np.asarray(found)[-1])
    np.testing.assert_allclose(np.asarray(decoded(codes, ranges, 3)), unit(near[:, :3]), atol=1e-6)
    assert decoded(rows, None) is rows
    np.testing.assert_allclose(np.asarray(decoded(rows, None, 3)), unit(rows[:, :3]), atol=1e-6)


def test_a_shard_without_vectors_and_one_of_equal_vectors_are_stored():
    for name in ("int8", "binary"):
        *_, codes = arrays(np.zeros((0, 9), np.float32), PRECISIONS[name])
        assert codes.shape == (0, 9)
    rows = unit(np.ones((4, 9)))
    ranges, codes = arrays(rows, PRECISIONS["int8"])
    np.testing.assert_allclose(np.asarray(decoded(codes, ranges)), rows, rtol=1e-6)


@pytest.mark.parametrize("width", [1, 7, 8, 20, 64, 65])
def test_the_signs_that_differ_are_counted_for_whole_vectors_and_for_a_prefix(width):
    rng = np.random.default_rng(width)
    rows, query = rng.normal(size=(100, width)), rng.normal(size=width)
    for used in {1, (width + 1) // 2, width}:
        wanted = ((rows > 0) != (query > 0))[:, :used].sum(1)
        np.testing.assert_array_equal(_differing(signs(rows), signs(query[None, :used])[0], used), wanted)


def test_the_candidates_are_those_that_agree_most_and_ties_go_to_the_first():
    rng = np.random.default_rng(1)
    rows, query = rng.normal(size=(500, 12)).astype(np.float32), rng.normal(size=12).astype(np.float32)
    blocks = [rows[:200], rows[200:200], rows[200:]]
    sizes = [len(block) for block in blocks]
    screen = SignScreen(sizes, lambda n: signs(blocks[n]), Rows(sizes, blocks.__getitem__), 12, 3)
    differing = ((rows > 0) != (query > 0)).sum(1)
    for k in (1, 10, 150, 400):
        wanted = np.sort(np.argsort(differing, kind="stable")[: 3 * k])
        np.testing.assert_array_equal(screen.candidates(query, k), wanted)
        np.testing.assert_array_equal(screen.in_memory().candidates(query, k), wanted)


def assert_found_again(folder, n, width, clusters, queries, size, least=0.99):
    """Checks recalls and sizes for vectors around the centres of clusters."""
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(clusters, width)))
    rows, asked = clustered(rng, n, centres), clustered(rng, queries, centres)
    truth = asked @ rows.T
    folders = {name: written(folder / name, rows, name, size) for name in PRECISIONS}
    assert recall(folders["float32"], asked, truth) == 1
    assert recall(folders["int8"], asked, truth) >= least
    assert recall(folders["binary"], asked, truth) >= 0.95
    shards = -(-n // size)
    whole, head = n * width * 4, shards * 128  # Each file has a header of 128 bytes.
    ranges = shards * (128 + 2 * width * 4)
    assert bytes_of(folders["float32"], "embeddings") == whole + head
    assert bytes_of(folders["int8"], "embeddings", "ranges") == whole // 4 + head + ranges
    assert bytes_of(folders["binary"], "signs") == whole // 32 + head
    assert (
        bytes_of(folders["binary"], "signs", "embeddings", "ranges")
        == whole // 32 + whole // 4 + 2 * head + ranges
    )
    return folders, asked, truth


def test_a_few_thousand_clustered_vectors_are_found_again(tmp_path):
    folders, asked, truth = assert_found_again(tmp_path, 4000, 128, 400, 8, 1000)
    assert recall(folders["binary"], asked, truth, rescore_multiplier=1) < 0.9
    # This rescores all vectors.
    assert recall(folders["binary"], asked, truth, rescore_multiplier=400, screen=True) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("width", [256, 512])
# The tenth and the eleventh of 100 vectors around a centre differ by 0.001, which 8 bits hardly tell apart.
@pytest.mark.parametrize(("clusters", "least"), [(10_000, 0.99), (1000, 0.98)])
def test_a_hundred_thousand_clustered_vectors_are_found_again(width, clusters, least, tmp_path):
    assert_found_again(tmp_path, 100_000, width, clusters, 100, 4096, least)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision")
    tiny.write_models_and_pictures(folder)
    shutil.copytree(folder / "pairs", folder / "broken")
    for i in (3, 4, 5, 9):  # The second shard of three pictures loses them all.
        (folder / "broken" / f"{i:03}.png").write_bytes(b"<html>")
    return folder


@pytest.fixture(scope="module")
def model(place):
    return Embedder(place / "model")


@pytest.mark.sampled(3)  # The fast run takes whole vectors of int8, and prefixes of binary ones.
@pytest.mark.parametrize("precision", ["int8", "binary"])
@pytest.mark.parametrize("dim", [None, 6])
def test_an_embedded_index_is_searched_by_what_it_stores(place, model, tmp_path, precision, dim):
    source = f"folder:{place / 'broken'}"
    options = {"shard_size": 3, "precision": precision, "on_bad_record": "skip"}
    index = lit_jax.embed(source, tmp_path / "i", model, **options)
    assert (index.precision, index.skipped, index.width) == (precision, (3, 4, 5, 9), 16)
    rows = np.concatenate([shard.embeddings for shard in index])
    np.testing.assert_allclose(
        rows, np.delete(model.pictures(source, on_bad_record="skip"), index.skipped, 0), atol=0.02
    )
    query = model.texts([QUERY])[0][:dim]
    cut = unit(rows[:, :dim])
    scores = cut @ query / np.linalg.norm(query)
    for opened in (
        index,
        Index.open(tmp_path / "i", screen=True),
        Index.open(tmp_path / "i", screen=True, dim=dim),
    ):
        hits = lit_jax.search(opened, QUERY, model=model, top=20, dim=dim)
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1], atol=1e-5)
        np.testing.assert_allclose(
            [hit.score for hit in hits], scores[[hit.number for hit in hits]], atol=1e-5
        )
        assert [hit.id for hit in hits] == [f"{index.record(hit.number):03}" for hit in hits]
    threshold = float(np.quantile(rows @ rows.T, 0.7))
    stays = []
    for number, row in enumerate(rows):
        if all(row @ rows[other] < threshold for other in stays):
            stays.append(number)
    kept = choose(open_source(source), Rules(near_duplicates=threshold, index=index)).records
    assert kept.tolist() == [index.record(number) for number in stays] and 1 < len(kept) < len(rows)


def test_the_command_writes_and_searches_an_index_of_signs(place, tmp_path):
    said = tmp_path / "said.json"
    for args in (
        ["embed", f"folder:{place / 'pairs'}", "--model", place / "model", "--precision", "binary"],
        ["search", "--query", QUERY, "--rescore-multiplier", 2, "--top", 3, "--json", said],
    ):
        where = [tmp_path / "i"] if args[0] == "search" else ["--output", tmp_path / "i"]
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in (*args, *where)])
        assert ended.value.code == 0
    index = Index.open(tmp_path / "i", rescore_multiplier=2)
    assert [hit["id"] for hit in json.loads(said.read_text())] == [
        hit.id for hit in lit_jax.search(index, QUERY, top=3)
    ]
    names = sorted(os.listdir(tmp_path / "i"))
    assert [name.partition("-")[0] for name in names if "-" in name] == [
        "embeddings",
        "ids",
        "ranges",
        "signs",
    ]
    sums = (tmp_path / "i" / "SHA256SUMS").read_text()
    assert all(name in sums for name in names if "-" in name)


def test_impossible_options_are_refused(place, model, tmp_path):
    pairs = f"folder:{place / 'pairs'}"
    with pytest.raises(
        ConfigError, match="format parquet holds float32, and precision is int8; want format npy"
    ):
        lit_jax.embed(pairs, tmp_path / "p", model, format="parquet", precision="int8")
    with pytest.raises(ConfigError, match="precision is 'int4'; want 'float32' or 'int8' or 'binary'"):
        lit_jax.embed(pairs, tmp_path / "p", model, precision="int4")
    index = lit_jax.embed(pairs, tmp_path / "i", model)
    with pytest.raises(
        ConfigError, match=r"rescore_multiplier is 3, and the index .* is of float32, of which all"
    ):
        Index.open(index.folder, rescore_multiplier=3)
    with pytest.raises(
        ConfigError, match="is an index of another precision; give another folder, or delete it"
    ):
        lit_jax.embed(pairs, tmp_path / "i", model, precision="int8")
    lit_jax.embed(pairs, tmp_path / "b", model, precision="binary")
    with pytest.raises(ConfigError, match="rescore_multiplier is 0; want a whole number, 1 or more"):
        Index.open(tmp_path / "b", rescore_multiplier=0)
    with pytest.raises(ConfigError, match="is an index of another precision"):
        lit_jax.embed(pairs, tmp_path / "b", model)


ROWS = unit(np.random.default_rng(0).normal(size=(5, 9)))


def changed(folder, kind, array):
    for path in folder.glob(f"{kind}-*.npy"):
        path.unlink()
        if array is not None:
            np.save(path, array)


@pytest.mark.parametrize(
    ("kind", "array", "says"),
    [
        ("signs", None, "cannot be read"),
        ("signs", np.zeros((5, 1), np.uint8), "not 5 vectors of 2 uint8"),
        ("ranges", np.zeros((1, 9), np.float32), "not 2 vectors of 9 float32"),
        ("ranges", np.full((2, 9), np.nan, np.float32), "not finite"),
        ("ranges", np.full((2, 9), np.inf, np.float32), "not finite"),
        ("embeddings", ROWS, "it has float32 .* not 5 vectors of 9 int8"),
    ],
)
def test_invalid_files_are_refused_in_one_sentence(tmp_path, kind, array, says):
    folder = written(tmp_path / "i", ROWS, "binary", 5)
    changed(folder, kind, array)
    with pytest.raises(DataError, match=says) as error:
        find(Index.open(folder), ROWS[:1], 2, make_mesh())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"precision": "int4"}, {"precision": ["int8"]}, {"format": "parquet"}])
def test_a_manifest_with_an_invalid_precision_is_refused(tmp_path, changes):
    folder = written(tmp_path / "i", ROWS, "int8", 5)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    with pytest.raises(DataError, match="its 'precision' is missing or unusable"):
        Index.open(folder)
