"""A folder of small pictures with two captions each, and a decoder and a tokenizer that hide nothing."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from lit_jax.errors import DataError

RECORDS = 40


def png(seed, size=(9, 7)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def row(i):
    return {
        "file_name": f"{i:02d}.png",
        "captions": [f"{i} one", f"{i} zwei é"],
        "id": f"r{i}",
        "label": ["cat", "dog", "ant"][i % 3],
    }


@pytest.fixture
def write_folder(tmp_path):
    """`write_folder(rows, broken=(...))`: a directory whose metadata are `rows`; broken pictures hold no image."""

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


def decode(data, key=0):
    try:
        image = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError as e:
        raise DataError("not an image") from e
    return np.asarray(image.convert("RGB").resize((4, 4)))


def tokenize(texts):
    """The bytes of each text, 16 of them."""
    ids = np.zeros((len(texts), 16), np.int32)
    for line, text in zip(ids, texts, strict=True):
        code = text.encode()[:16]
        line[: len(code)] = list(code)
    return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int32)}


def texts_of(batch):
    return [bytes(line[line > 0].tolist()).decode() for line in batch["texts"]["input_ids"]]
