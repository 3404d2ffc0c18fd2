"""Scores of pairs, and the filter, which keeps what NumPy keeps."""

import json
import logging
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest

import lit_jax
from lit_jax.__main__ import main
from lit_jax.data.sources.kept import Kept, write_choice
from lit_jax.data.sources.registry import open_source
from lit_jax.inference.duplicates import near_duplicates
from lit_jax.inference.embedder import Embedder
from lit_jax.inference.filtering import Rules, choose
from lit_jax.inference.index import Index
from lit_jax.inference.scores import Scores, score
from lit_jax.inference.screen import Rows
from lit_jax.parallel.sharding import make_mesh
from lit_jax.utils.errors import ConfigError, DataError
from tests import tiny

N, BROKEN = 12, (4, 7)

pytestmark = pytest.mark.usefixtures("loggers_as_they_were")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model and pairs: two pictures are broken, one caption is empty, and one record has no caption."""
    folder = tmp_path_factory.mktemp("scores")
    lit_jax.save(folder / "model", *tiny.dual(), tiny.processor())
    tiny.write_pairs(folder / "pairs", N)
    for i in BROKEN:
        (folder / "pairs" / f"{i:03}.png").write_bytes(b"<html>")
    table = folder / "pairs" / "metadata.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    rows[2]["captions"].insert(0, "")
    rows[3]["captions"] = []
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def source(place):
    return open_source(f"folder:{place / 'pairs'}")


@pytest.fixture(scope="module")
def model(place):
    return Embedder(place / "model")


@pytest.fixture(scope="module")
def scores(place, source, model):
    return score(source, place / "scores", model, shard_size=5, on_bad_record="skip")


@pytest.fixture(scope="module")
def wanted(source, model):
    """(record, caption, similarity) of every usable caption, by NumPy."""
    images = model.pictures(source, on_bad_record="skip")
    found = []
    for i in range(N):
        if i not in BROKEN:
            for number, text in enumerate(source[i]["captions"]):
                if text:
                    found.append((i, number, float(images[i] @ model.texts([text])[0])))
    return found


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_scores_are_the_cosines_of_all_usable_captions(source, scores, wanted):
    table = scores.read()
    assert list(zip(table.records.tolist(), table.captions.tolist(), strict=True)) == [
        row[:2] for row in wanted
    ]
    np.testing.assert_allclose(table.similarities, [row[2] for row in wanted], atol=1e-5)
    assert (scores.pictures, scores.skipped) == (N - len(BROKEN), BROKEN)
    ids = pq.read_table(scores.folder / "scores-00001-of-00003.parquet")["id"].to_pylist()
    assert ids == [source[i]["id"] for i, _, _ in wanted if 5 <= i < 10]


def test_scores_that_are_written_in_parts_have_the_bytes_of_one_process(source, model, scores, tmp_path):
    for i in (2, 0, 0):
        assert score(source, tmp_path / "s", model, shard_size=5, on_bad_record="skip", shard=(i, 3)) is None
    with pytest.raises(DataError, match="is not complete; start the `score`"):
        Scores.open(tmp_path / "s")
    assert score(
        source, tmp_path / "s", model, shard_size=5, on_bad_record="skip", shard=(1, 3)
    ) == Scores.open(tmp_path / "s")
    assert contents(tmp_path / "s") == contents(scores.folder)
    with pytest.raises(ConfigError, match="is a set of scores of another shard_size"):
        score(source, tmp_path / "s", model, shard_size=6)


def test_a_score_that_was_changed_is_refused(source, model, tmp_path):
    made = score(source, tmp_path / "s", model, on_bad_record="skip").folder
    path = made / "scores-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(DataError, match="another sha256"):
        Scores.open(made).read()
    pq.write_table(table.drop_columns("id"), path)
    with pytest.raises(
        DataError, match=r"does not have the columns id, record, .*; delete the folder, score again"
    ):
        Scores.open(made).read()


def pairs_of(choice):
    return list(zip(choice.records.tolist(), choice.captions.tolist(), strict=True))


def test_a_choice_by_similarity_is_that_of_numpy(source, scores, wanted):
    values = np.array([row[2] for row in wanted])
    middle = float(np.sort(values)[[8, 9]].mean())
    kept = choose(source, Rules(scores=scores, min=middle))
    assert pairs_of(kept) == [row[:2] for row in wanted if row[2] >= middle]
    assert kept.remarks == (f"{len(wanted) - 9} of {len(wanted)} captions are similar enough",)
    best = sorted(np.argsort(-values)[: len(wanted) // 4])
    assert pairs_of(choose(source, Rules(scores=scores, top_share=0.25))) == [wanted[i][:2] for i in best]
    assert len(choose(source, Rules(scores=scores, top_share=1.0)).records) == len(wanted)
    ids = [source[i]["id"] for i in (1, 2, 9)]
    both = choose(source, Rules(scores=scores, min=-1.0, ids=ids))
    assert pairs_of(both) == [row[:2] for row in wanted if row[0] in (1, 2, 9)]


def test_a_choice_by_ids_alone_keeps_all_captions(source):
    kept = choose(source, Rules(ids=[source[i]["id"] for i in (5, 1)]))
    assert kept.records.tolist() == [1, 5] and kept.captions is None
    with pytest.raises(DataError, match=r"no record has the id 'x', nor 1 others of the list"):
        choose(source, Rules(ids=["x", "y"]))


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({}, "there is no rule"),
        ({"min": 0.1}, "scores go with min or top_share"),
        ({"scores": 1}, "scores go with min or top_share"),
        ({"scores": 1, "min": 0.1, "top_share": 0.1}, "give one of them"),
        ({"scores": 1, "min": 1.5}, "min is 1.5; want a number from -1 to 1"),
        ({"scores": 1, "min": float("nan")}, "min is nan"),
        ({"scores": 1, "top_share": 0.0}, "top_share is 0.0; want a number above 0, at most 1"),
        ({"near_duplicates": 0.9}, "an index go together"),
    ],
)
@pytest.mark.usefixtures("any_types")
def test_rules_that_do_not_go_together_are_refused(rules, says):
    with pytest.raises(ConfigError, match=says):
        Rules(**rules)


def test_scores_of_another_source_are_refused(scores):
    with pytest.raises(DataError, match="its scores are of another source"):
        choose(open_source("shapes:12/train"), Rules(scores=scores, min=0.0))


def far_apart(rows, numbers, threshold):
    """The rule for near-duplicates in its plain form."""
    stay = []
    for number in numbers:
        if not any(rows[number] @ rows[other] >= threshold for other in stay):
            stay.append(number)
    return stay


@pytest.mark.parametrize("block", [8, 24, 1000])
def test_near_duplicates_are_those_of_the_plain_rule_in_blocks_of_any_size(block):
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(40, 8)), 3, 0)[rng.permutation(120)] + rng.normal(size=(120, 8)) * 0.2
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    numbers = np.sort(rng.permutation(120)[:101])
    left = near_duplicates(Rows([len(rows)], [rows].__getitem__), numbers, 0.9, make_mesh(), block)
    stay = far_apart(rows, numbers.tolist(), 0.9)
    assert numbers[~left].tolist() == stay and 30 < len(stay) < 70


def test_what_is_kept_can_be_pickled_and_has_a_fingerprint_of_its_own(source, tmp_path):
    prints = set()
    for name, captions in (("a", np.array([1, 1, 0])), ("b", np.array([1, 0, 0])), ("c", None)):
        (tmp_path / name).mkdir()
        write_choice(tmp_path / name, np.array([2, 5, 6]), captions)
        kept = pickle.loads(pickle.dumps(Kept(source, tmp_path / name)))
        prints.add(kept.fingerprint())
        texts = source[2]["captions"] if captions is None else [source[2]["captions"][captions[0]]]
        assert len(kept) == 3 and kept[0] == source[2] | {"captions": texts}
    assert len(prints) == 3 and source.fingerprint() not in prints


def command(*args):
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    return ended.value.code


def test_the_commands_write_a_set_that_opens(place, source, model, wanted, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    pairs, out = f"folder:{place / 'pairs'}", tmp_path / "set"
    given = ["--model", place / "model", "--on-bad-record", "skip"]
    assert command("score", pairs, "--output", tmp_path / "s", *given) == 0
    assert command("embed", pairs, "--output", tmp_path / "i", *given) == 0
    middle = float(np.sort([row[2] for row in wanted])[[8, 9]].mean())
    rules = [
        "--scores",
        tmp_path / "s",
        "--min",
        middle,
        "--near-duplicates",
        0.99,
        "--index",
        tmp_path / "i",
    ]
    assert command("filter", pairs, *rules, "--output", out, "--processes", 1) == 0
    assert f"train on it as tfds:{out}/train" in capsys.readouterr().out
    index = Index.open(tmp_path / "i")
    rows = dict(
        zip(np.delete(np.arange(N), BROKEN), np.concatenate([s.embeddings for s in index]), strict=True)
    )
    by_record = {}
    for record, caption, value in wanted:
        if value >= middle:
            by_record.setdefault(record, []).append(source[record]["captions"][caption])
    stay = far_apart(rows, list(by_record), 0.99)
    prepared = open_source(f"tfds:{out}/train")
    assert [(r["id"], r["captions"]) for r in map(prepared.__getitem__, range(len(prepared)))] == [
        (source[i]["id"], by_record[i]) for i in stay
    ]
    for i in range(2):
        part = ["--output", tmp_path / "parts", "--processes", 1, "--shard", f"{i}/2"]
        assert command("filter", pairs, *rules, *part) == 0
    assert contents(tmp_path / "parts") == contents(out)


@pytest.mark.slow
def test_ten_thousand_pairs_are_filtered_as_by_numpy(place, tmp_path):
    spec, n = "shapes:10000/train", 10_000
    given = ["--model", place / "model"]
    assert command("score", spec, "--output", tmp_path / "s", *given) == 0
    assert command("embed", spec, "--output", tmp_path / "i", *given) == 0
    rules = [
        "--scores",
        tmp_path / "s",
        "--top-share",
        0.3,
        "--near-duplicates",
        0.999,
        "--index",
        tmp_path / "i",
    ]
    assert command("filter", spec, *rules, "--output", tmp_path / "set", "--processes", 1) == 0
    source, model = open_source(spec), Embedder(place / "model")
    rows = np.concatenate([shard.embeddings for shard in Index.open(tmp_path / "i")])
    texts = [source[i]["captions"] for i in range(n)]
    counts = [len(each) for each in texts]
    owner = np.repeat(np.arange(n), counts)
    values = np.einsum("ne,ne->n", rows[owner], model.texts([text for each in texts for text in each]))
    found = Scores.open(tmp_path / "s").read()
    np.testing.assert_allclose(found.similarities, values, atol=1e-5)
    best = np.sort(np.argsort(-found.similarities, kind="stable")[: int(0.3 * len(owner))])
    kept = {}
    for pair in best.tolist():
        kept.setdefault(int(owner[pair]), []).append(texts[owner[pair]][found.captions[pair]])
    prepared = open_source(f"tfds:{tmp_path}/set/train")
    stay = {int(record["id"].split("-")[1]): record["captions"] for record in prepared}
    assert list(stay) == sorted(stay) and stay.items() <= kept.items() and 10 < len(stay) < len(kept)
    # In float64, the rule decides each picture, except where a cosine equals the threshold up to float32's rounding.
    cosines = rows[list(kept)].astype(np.float64) @ rows[list(stay)].astype(np.float64).T
    for row, record in zip(cosines, kept, strict=True):
        nearest = row[np.array(list(stay)) < record].max(initial=-1)
        assert nearest < 0.999 + 1e-6 if record in stay else nearest >= 0.999 - 1e-6
