"""Classification, indexes and searches, from Python and as commands, with the usual mistakes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import lit_jax
from lit_jax.__main__ import main
from lit_jax.inference import index as indexes
from lit_jax.inference.embedder import Embedder
from lit_jax.inference.nearest import nearest
from lit_jax.inference.search import Hit
from lit_jax.parallel.sharding import make_mesh
from tests import tiny

LABELS = ["red square", "blue circle", "green square"]


pytestmark = pytest.mark.usefixtures("loggers_as_they_were")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ask")
    tiny.write_models_and_pictures(folder)
    return folder


@pytest.fixture(scope="module")
def model(place):
    return Embedder(place / "model")


@pytest.fixture(scope="module")
def index(place, model):
    return lit_jax.embed(f"folder:{place / 'pairs'}", place / "index", model, shard_size=10)


def command(*args):
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    return ended.value.code


def test_classify_is_the_softmax_of_the_logits_of_the_model_and_the_command_agrees(place, model, tmp_path):
    paths = [str(place / "pairs" / f"{i:03}.png") for i in range(3)]
    classified = lit_jax.classify(paths, LABELS, model)
    face = lit_jax.VisionTextDualEncoderModel.from_pretrained(place / "model")
    pictures = [Image.open(path) for path in paths]
    inputs = tiny.processor()(text=LABELS, images=pictures, return_tensors="np", padding=True)
    logits = np.asarray(face(**inputs).logits_per_image)
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for shares, row in zip(classified, wanted, strict=True):
        np.testing.assert_allclose([shares[label] for label in LABELS], row, rtol=1e-3, atol=1e-5)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
    said = tmp_path / "said.json"
    args = ["classify", *paths, "--model", place / "model", "--labels", ",".join(LABELS), "--json", said]
    assert command(*args) == 0
    assert [picture["labels"] for picture in json.loads(said.read_text())] == classified
    assert lit_jax.classify(pictures, LABELS, model) == classified


def test_search_finds_what_a_dense_sort_finds_and_the_command_agrees(place, model, index, tmp_path):
    rows = np.concatenate([shard.embeddings for shard in index])
    scores = rows @ model.texts(["a red circle"])[0]
    hits = lit_jax.search(index, "a red circle", model=model, top=24)
    assert [hit.number for hit in hits] == np.argsort(-scores, kind="stable").tolist()
    assert [hit.id for hit in hits] == [f"{hit.number:03}" for hit in hits]
    said = tmp_path / "said.json"
    assert command("search", place / "index", "--query", "a red circle", "--top", 24, "--json", said) == 0
    assert [Hit(**hit) for hit in json.loads(said.read_text())] == hits
    nearest_of_itself = lit_jax.search(index, picture=place / "pairs" / "007.png", model=model, top=1)
    assert nearest_of_itself[0].id == "007" and abs(nearest_of_itself[0].score - 1) < 1e-5


def test_both_formats_and_the_command_write_the_same_index(place, index, tmp_path):
    pairs = [f"folder:{place / 'pairs'}", "--model", place / "model", "--shard-size", 10]
    assert command("embed", *pairs, "--output", tmp_path / "i", "--format", "parquet") == 0
    for ours, theirs in zip(index, indexes.Index.open(tmp_path / "i"), strict=True):
        np.testing.assert_array_equal(ours.embeddings, theirs.embeddings)
        assert ours.ids == theirs.ids


def test_an_index_in_bfloat16_is_close_to_float32_and_does_not_mix_with_it(place, index, tmp_path):
    arguments = [
        f"folder:{place / 'pairs'}",
        "--model",
        place / "model",
        "--shard-size",
        10,
        "--output",
        tmp_path / "i",
    ]
    assert command("embed", *arguments, "--dtype", "bfloat16") == 0
    for ours, theirs in zip(index, indexes.Index.open(tmp_path / "i"), strict=True):
        assert 1e-5 < np.abs(ours.embeddings - theirs.embeddings).max() < 0.05
    assert command("embed", *arguments) == 2


def test_embed_after_a_kill_redoes_no_finished_shard(place, model, index, tmp_path, monkeypatch):
    out, pairs = tmp_path / "i", f"folder:{place / 'pairs'}"
    embedded, whole = [], Embedder.pictures

    def killed_in_the_third(self, part, **options):
        embedded.append(part.spec)
        if len(embedded) == 3:
            raise KeyboardInterrupt
        return whole(self, part, **options)

    monkeypatch.setattr(Embedder, "pictures", killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        lit_jax.embed(pairs, out, model, shard_size=10)
    with pytest.raises(lit_jax.DataError, match="not complete"):
        lit_jax.search(out, "red", model=model)
    lit_jax.embed(pairs, out, model, shard_size=10)
    lit_jax.embed(pairs, out, model, shard_size=10)  # The index is complete.
    assert embedded == [f"{pairs}[{part}]" for part in ("0:10", "10:20", "20:24", "20:24")]
    for ours, theirs in zip(index, indexes.Index.open(out), strict=True):
        np.testing.assert_array_equal(ours.embeddings, theirs.embeddings)
    with pytest.raises(lit_jax.ConfigError, match="shard_size"):
        lit_jax.embed(pairs, out, model, shard_size=12)


@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        ("classify {}/notes.txt --model {}/model --labels red,blue", 3, "notes.txt: not an image"),
        ("classify {}/vast.png --model {}/model --labels red,blue", 3, "10000x10000 pixels, more than"),
        ("classify {}/none.png --model {}/model --labels red,blue", 3, "none.png' cannot be read"),
        ("classify {}/pairs/000.png --model {}/none --labels red,blue", 4, "none does not exist"),
        ("classify {}/pairs/000.png --model {}/model", 2, "there are no labels"),
        ("classify {}/pairs/000.png --model {}/model --labels red,red", 3, "appear more than once"),
        ("embed {}/notes.txt --model {}/model --output {}/bad", 3, "notes.txt: not an image"),
        ("embed {}/pairs/000.png --model {}/model --output {}/pairs", 2, "exists and is not an index"),
        ("embed {}/pairs --model {}/other --output {}/index --shard-size 10", 2, "an index of another model"),
        ("search {}/index --query red --model {}/other", 3, "was made by another model"),
        ("search {}/index", 2, "give one query"),
        ("search {}/index --query red --picture {}/pairs/000.png", 2, "give one query"),
        ("search {}/pairs --query red", 3, "is not an index"),
    ],
)
def test_a_mistake_ends_in_one_sentence_and_its_status(place, index, capfd, recwarn, args, status, says):
    assert command(*args.replace("{}", str(place)).split()) == status
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("lit-jax: ") and says in said[0]
    # Warnings would be printed too.
    assert not [warning for warning in recwarn if "bomb" in str(warning.message)]


def test_pictures_can_come_as_paths_bytes_images_or_a_source(place, model):
    paths = [place / "pairs" / f"{i:03}.png" for i in range(3)]
    wanted = model.pictures(paths)
    for same in (
        map(str, paths),
        tuple(path.read_bytes() for path in paths),
        [Image.open(path) for path in paths],
        sorted((place / "pairs").glob("00[012].png")),
    ):
        np.testing.assert_array_equal(model.pictures(same), wanted)
    of_all = model.pictures(f"folder:{place / 'pairs'}")  # In larger batches.
    np.testing.assert_allclose(of_all[:3], wanted, atol=1e-5)
    cmyk = Image.open(paths[0]).convert("RGB").convert("CMYK")  # Like many JPEGs made for print.
    np.testing.assert_array_equal(model.pictures(cmyk), model.pictures(cmyk.convert("RGB")))
    np.testing.assert_allclose(model.pictures(str(paths[1])), wanted[1:2], atol=1e-5)


def test_labels_that_are_too_long_for_a_file_name_are_labels(place, tmp_path):
    labels, said = [f"a thing of number {i}" for i in range(400)], tmp_path / "said.json"
    args = ["classify", place / "pairs" / "000.png", "--model", place / "model", "--json", said]
    assert command(*args, "--labels", ",".join(labels)) == 0
    assert json.loads(said.read_text())[0]["labels"].keys() == set(labels)


def test_a_command_does_not_import_torch_even_if_it_is_installed(place, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('torch was imported')")
    (tmp_path / "torch-9.0.0.dist-info").mkdir()
    (tmp_path / "torch-9.0.0.dist-info" / "METADATA").write_text("Name: torch\nVersion: 9.0.0\n")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    picture, model = str(place / "notes.txt"), str(place / "model")
    args = ["-m", "lit_jax", "classify", picture, "--labels", "red,blue", "--model", model]
    done = subprocess.run(
        [sys.executable, *args], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (3, 1) and "notes.txt" in done.stderr


def test_a_run_that_failed_before_its_first_shard_leaves_the_folder_usable(place, model, tmp_path):
    paths = [place / "pairs" / "000.png", place / "notes.txt"]
    with pytest.raises(lit_jax.DataError, match="not an image"):
        lit_jax.embed(paths, tmp_path / "i", model)
    assert lit_jax.embed(paths[:1], tmp_path / "i", model).pictures == 1
    with pytest.raises(lit_jax.ConfigError, match="another set of pictures"):
        lit_jax.embed([place / "pairs" / "001.png"], tmp_path / "i", model)


def test_a_damaged_shard_is_named(place, model, index, tmp_path):
    copy = lit_jax.embed(f"folder:{place / 'pairs'}", tmp_path / "i", model)
    path = copy.folder / "embeddings-00000-of-00001.npy"
    os.truncate(path, 200)
    with pytest.raises(lit_jax.DataError, match=path.name):
        lit_jax.search(copy, "red", model=model)


def test_nearest_is_exact_over_tiles_with_ties_in_order():
    rng = np.random.default_rng(0)
    rows = rng.integers(-2, 3, (103, 6)).astype(np.float32)  # Small integers: many ties, exact sums.
    queries = rng.integers(-2, 3, (4, 6)).astype(np.float32)
    order = np.argsort(-(queries @ rows.T), axis=1, kind="stable")
    for k, size in ((1, 50), (20, 50), (200, 40), (7, 103)):
        tiles = [rows[start : start + size] for start in range(0, len(rows), size)]
        scores, numbers = nearest(queries, tiles, k, make_mesh())
        np.testing.assert_array_equal(numbers, order[:, :k])
        np.testing.assert_array_equal(scores, np.take_along_axis(queries @ rows.T, order[:, :k], 1))
