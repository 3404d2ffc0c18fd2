"""1,000 pictures with three captions each, in every form: one set of pairs, one training order, one set of metrics."""

import csv
import hashlib
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_jax.data.sources.contents import captions_of
from lit_jax.data.sources.registry import open_source
from lit_jax.evals.bootstrap import estimate
from lit_jax.evals.retrieval import retrieve
from tests.data.conftest import png, read_batches

PICTURES, CAPTIONS, SIZE = 1000, 3, 8


def all_pairs():
    """(name, image, captions) of each picture, sorted by name."""
    return [
        (f"{i:04}", png(i), [f'{i}, caption {j} of "{i}" é' for j in range(CAPTIONS)])
        for i in range(PICTURES)
    ]


def write_pictures(folder, pairs):
    folder.mkdir()
    for name, image, _ in pairs:
        (folder / f"{name}.png").write_bytes(image)


def rows_of(pairs):
    return [(f"{name}.png", caption) for name, _, captions in pairs for caption in captions]


def shuffled(pairs):
    """The rows shuffled, so that those of a picture are apart; its captions keep their order."""
    left = {f"{name}.png": iter(captions) for name, _, captions in pairs}
    files = np.random.default_rng(0).permutation(np.repeat(list(left), CAPTIONS)).tolist()
    return [(file, next(left[file])) for file in files]


def json_list(folder, pairs):
    write_pictures(folder, pairs)
    lines = [json.dumps({"file_name": f"{name}.png", "captions": captions}) for name, _, captions in pairs]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return f"folder:{folder}"


def json_rows(folder, pairs):
    write_pictures(folder, pairs)
    lines = [json.dumps({"file_name": file, "caption": caption}) for file, caption in rows_of(pairs)]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return f"folder:{folder}"


def table(name, rows, delimiter=","):
    def write(folder, pairs):
        write_pictures(folder, pairs)
        with open(folder / name, "w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([("file_name", "caption"), *rows(pairs)])
        return f"folder:{folder}"

    return write


def tar_lists(folder, pairs):
    """Shards of 100 samples, each with `a.png` and with `a.json`, a list of captions."""
    folder.mkdir()
    for start in range(0, PICTURES, 100):
        with tarfile.open(folder / f"{start // 100:05}.tar", "w") as tar:
            for name, image, captions in pairs[start : start + 100]:
                for member, content in ("png", image), ("json", json.dumps({"captions": captions}).encode()):
                    info = tarfile.TarInfo(f"{name}.{member}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return f"wds:{folder}"


def parquet_of(columns):
    def write(folder, pairs):
        folder.mkdir()
        pq.write_table(pa.table(columns(pairs)), folder / "pairs.parquet", row_group_size=100)
        return f"parquet:{folder}"

    return write


def parquet_lists(pairs):
    return {
        "image": [{"bytes": image, "path": f"{name}.png"} for name, image, _ in pairs],
        "captions": [captions for _, _, captions in pairs],
    }


def parquet_rows(pairs):
    images = {f"{name}.png": image for name, image, _ in pairs}
    rows = rows_of(pairs)
    return {
        "image": [{"bytes": images[file], "path": file} for file, _ in rows],
        "caption": [caption for _, caption in rows],
    }


# Form -> `write(folder, pairs)`, which makes the folder and returns the name of the source.
FORMS = {
    "jsonl list": json_list,
    "jsonl rows": json_rows,
    "csv sorted": table("captions.csv", rows_of),
    "csv shuffled": table("captions.csv", shuffled),
    "tsv": table("captions.tsv", rows_of, "\t"),
    "wds json list": tar_lists,
    "parquet list": parquet_of(parquet_lists),
    "parquet rows": parquet_of(parquet_rows),
}


@pytest.fixture(scope="module")
def pairs():
    return all_pairs()


@pytest.fixture(scope="module", params=FORMS)
def source(request, pairs, tmp_path_factory):
    return open_source(FORMS[request.param](tmp_path_factory.mktemp("form") / "f", pairs))


@pytest.fixture(scope="module")
def reference(pairs, tmp_path_factory):
    """The digest that the batches of every form must have."""
    return digest_of_batches(open_source(json_list(tmp_path_factory.mktemp("reference") / "f", pairs)))


def vector(content):
    """A unit vector [SIZE], float32, the same for equal bytes."""
    drawn = np.random.default_rng(list(hashlib.sha256(content).digest())).normal(size=SIZE)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def embeddings(pairs):
    """Embeddings of pictures [N, E], and of captions [3 N, E], each near that of its picture."""
    images = np.stack([vector(image) for _, image, _ in pairs])
    texts = np.stack([vector(caption.encode()) for _, _, captions in pairs for caption in captions])
    return images, np.repeat(images, CAPTIONS, axis=0) + 0.3 * texts


def recall_at_1(pairs):
    """(image to text, text to image) recall@1 in numpy: the share of queries whose nearest neighbour is a match."""
    images, texts = embeddings(pairs)
    scores = images.astype(np.float64) @ texts.astype(np.float64).T
    owner = np.repeat(np.arange(PICTURES), CAPTIONS)
    return (owner[scores.argmax(1)] == np.arange(PICTURES)).mean(), (scores.argmax(0) == owner).mean()


def digest_of_batches(source):
    """The sha256 of the training batches of an epoch and of two further batches."""
    digest = hashlib.sha256()
    batches = read_batches(source, batch_size=100, seed=7, threads=2)
    for _ in range(12):
        batch = next(batches)
        for array in (batch["images"], batch["texts"]["input_ids"], batch["index"]):
            digest.update(array.tobytes())
    batches.close()
    return digest.hexdigest()


@pytest.mark.sampled(3)
def test_every_form_is_the_same_ordered_set_of_pairs(source, pairs):
    records = [source[i] for i in range(len(source))]
    assert [(record["image"], record["captions"]) for record in records] == [pair[1:] for pair in pairs]
    assert len({record["id"] for record in records}) == PICTURES


@pytest.mark.sampled(8)
def test_every_form_gives_the_same_batches(source, reference):
    assert digest_of_batches(source) == reference


@pytest.mark.sampled(8)
def test_every_form_gives_the_metrics_of_numpy(source, pairs):
    images = [source[i]["image"] for i in range(len(source))]
    texts, owner = captions_of(source)
    records = [("", image, []) for image in images]
    for text, picture in zip(texts, owner, strict=True):
        records[picture][2].append(text)
    metrics = estimate(retrieve(*embeddings(records), owner))
    want = recall_at_1(pairs)
    assert 0.1 < want[0] < 0.99  # A form that separates the captions of a picture would have another value.
    assert (metrics["image_to_text_recall@1"], metrics["text_to_image_recall@1"]) == want
