"""A folder of small pictures with two captions each, and a simple decoder and tokenizer."""

import dataclasses
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lit_jax.data.sources.registry import open_source
from lit_jax.data.tools.prepare import PrepareOptions, prepare
from lit_jax.data.train_batches import Reading, TrainTransforms, train_batches
from lit_jax.utils.errors import DataError

RECORDS = 40


def png(seed, size=(9, 7)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def storable(kind):
    """Whether this version of pyarrow makes and writes columns of the type: old ones lack the view types."""
    try:
        pq.write_table(pa.table({"x": pa.array([], kind)}), io.BytesIO())
    except pa.ArrowNotImplementedError:
        return False
    return True


def row(i):
    return {
        "file_name": f"{i:02d}.png",
        "captions": [f"{i} one", f"{i} zwei é"],
        "id": f"r{i}",
        "label": ["cat", "dog", "ant"][i % 3],
    }


@pytest.fixture
def write_folder(tmp_path):
    """`write_folder(rows, broken=(...))`: a directory with `rows` as its metadata; broken pictures hold no image."""

    def write(rows=None, broken=(), name="pictures"):
        folder = tmp_path / name
        folder.mkdir()
        rows = [row(i) for i in range(RECORDS)] if rows is None else rows
        for i in range(RECORDS):
            (folder / f"{i:02d}.png").write_bytes(b"<html>" if i in broken else png(i))
        lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows]
        (folder / "metadata.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        return folder

    return write


@pytest.fixture
def folder(write_folder):
    return write_folder()


@pytest.fixture
def pictures(tmp_path):
    """`pictures(names, **texts)`: a directory with these pictures and these other files."""

    def write(*names, **files):
        root = tmp_path / "p"
        for i, name in enumerate(names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(png(i))
        root.mkdir(exist_ok=True)
        for name, text in files.items():
            path = root / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return root

    return write


def records_of(source):
    """(id, captions) of every record."""
    return [(record["id"], record["captions"]) for record in map(source.__getitem__, range(len(source)))]


def decode(data, key=0):
    try:
        image = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError as e:
        raise DataError("not an image") from e
    return np.asarray(image.convert("RGB").resize((4, 4)))


def tokenize(texts):
    """The first 16 bytes of each text as ids."""
    ids = np.zeros((len(texts), 16), np.int32)
    for line, text in zip(ids, texts, strict=True):
        code = text.encode()[:16]
        line[: len(code)] = list(code)
    return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int32)}


TRANSFORMS = TrainTransforms(decode, tokenize)


def read_batches(source, transforms=TRANSFORMS, **options):
    """Calls `train_batches`; `options` are its own arguments or fields of TrainTransforms and Reading."""
    given = {"batch_size": 8, "seed": 3, "threads": 0} | options
    made = {name: given.pop(name) for name in TrainTransforms._fields if name in given}
    read = {field.name: given.pop(field.name) for field in dataclasses.fields(Reading) if field.name in given}
    return train_batches(source, transforms._replace(**made), Reading(**read), **given)


def texts_of(batch):
    return [bytes(line[line > 0].tolist()).decode() for line in batch["texts"]["input_ids"]]


def write_tar(path, members):
    """A plain tar file of (name, bytes) members."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_forms(root, pairs, shards=3):
    """Writes the same (id, image, captions) in every form and returns {name of the form: spec of the source}."""
    folder, wds, hub, disk = (root / name for name in ("folder", "wds", "hub", "disk"))
    for directory in (folder, wds, hub, disk):
        directory.mkdir()
    lines = []
    for name, image, captions in pairs:
        (folder / f"{name}.png").write_bytes(image)
        lines.append(json.dumps({"file_name": f"{name}.png", "captions": captions, "id": name}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    for shard in range(shards):
        some = pairs[len(pairs) * shard // shards : len(pairs) * (shard + 1) // shards]
        members = []
        for name, image, captions in some:
            members += [
                (f"{name}.png", image),
                (f"{name}.txt", captions[0].encode()),
                (f"{name}.json", json.dumps({"captions": captions, "key": name}).encode()),
            ]
        write_tar(wds / f"{shard:05}.tar", members)
        columns = {
            "image": [{"bytes": image, "path": f"{name}.png"} for name, image, _ in some],
            "caption": [captions for _, _, captions in some],
            "id": [name for name, _, _ in some],
        }
        table = pa.table(columns)
        pq.write_table(table, hub / f"train-{shard:05}.parquet", row_group_size=50)
        with pa.ipc.new_stream(disk / f"data-{shard:05}.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=50)
    specs = {
        "folder": f"folder:{folder}",
        "wds": f"wds:{wds}/*.tar",
        "parquet": f"parquet:{hub}/train-*.parquet",
        "arrow": f"arrow:{disk}",
    }
    prepare(
        open_source(specs["folder"]),
        root / "set",
        name="tiny",
        split="train",
        options=PrepareOptions(shards=shards),
    )
    return specs | {"tfds": f"tfds:{root / 'set'}/train"}


def pairs_of(n):
    """`n` pairs with one to three captions each; their ids sort in numerical order."""
    return [(f"{i:06}", png(i), [f"{i} caption {j} é" for j in range(1 + i % 3)]) for i in range(n)]
