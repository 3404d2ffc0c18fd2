"""A bit that flips anywhere in what lit_jax wrote changes no number silently."""

import dataclasses
import hashlib
import json
import logging
import os
import random
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from lit_jax.data.sources.registry import open_source
from lit_jax.data.tools.prepare import prepare
from lit_jax.hf import load
from lit_jax.hf import save as saving
from lit_jax.hf.processor import load_processor
from lit_jax.inference.index import Index
from lit_jax.inference.write_index import embed
from lit_jax.tools.export import convert
from lit_jax.train.loop import train
from lit_jax.train.trained import read_trained
from lit_jax.utils.errors import LitJaxError
from lit_jax.workdir.metrics import read_rows
from tests import tiny
from tests.data.conftest import write_tar
from tests.faults.drill import TIMES

FLIPS = int(os.environ.get("FLIPS", "500"))


def digest(tree):
    sha256 = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(tree)):
        sha256.update(np.asarray(leaf).tobytes())
    return sha256.hexdigest()


def outcome(config, workdir):
    """All numbers of a run that is started again, and of the trained model that is read from it."""
    state = train(config, workdir)
    rows = [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in read_rows(workdir / "metrics.jsonl")
    ]
    run = read_trained(workdir)
    return digest((state.step, state.tuned, state.locked, state.opt)), rows, digest(run.params), run.step


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that lacks its last checkpoint and of its tar, its config, and its numbers without a flip."""
    folder = tmp_path_factory.mktemp("flips")
    tiny.config(folder)
    pairs = json.loads("[" + ",".join((folder / "pairs" / "metadata.jsonl").read_text().splitlines()) + "]")
    members = []
    for row in pairs:
        members.append((f"{row['id']}.png", (folder / "pairs" / row["file_name"]).read_bytes()))
        members.append((f"{row['id']}.txt", row["captions"][0].encode()))
    (folder / "tar").mkdir()
    write_tar(folder / "tar" / "0.tar", members)
    spec = f"wds:{folder}/tar/*.tar"
    config = tiny.config(
        folder, data__train=spec, data__test=spec, eval_every=2, cache=True, optim__schedule="constant"
    )
    train(config, folder / "whole")
    shutil.rmtree(folder / "whole" / "checkpoints" / "step_6")
    shutil.copytree(folder / "whole", folder / "run")
    return folder, config, outcome(config, folder / "run")


def set_of(folder):
    source = open_source(f"tfds:{folder}/train")
    return source.class_names, [source[number] for number in range(len(source))]


def index_of(folder):
    index = Index.open(folder)
    shards = [(shard.ids, digest(shard.embeddings)) for shard in index]
    return dataclasses.replace(index, folder=Path()), shards


def model_of(folder):
    module, params = load.load(folder)
    processor = load_processor(folder)
    picture = Image.fromarray(np.arange(40 * 36 * 3, dtype=np.uint8).reshape(40, 36, 3))
    inputs = processor(text=["a red circle", "green"], images=picture, padding=True, return_tensors="np")
    return module.config, digest(params), {name: value.tobytes() for name, value in inputs.items()}


READERS = {"set": set_of, "npy": index_of, "parquet": index_of, "model": model_of}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of each kind in READERS."""
    folder = tmp_path_factory.mktemp("written")
    tiny.write_pairs(folder / "pairs", labels=True)
    saving.save(folder / "plain", *tiny.dual(), tiny.processor())
    prepare(open_source(f"folder:{folder}/pairs"), folder / "set", name="pairs", split="train")
    for format in ("npy", "parquet"):
        embed(f"folder:{folder}/pairs", folder / format, folder / "plain", shard_size=10, format=format)
    convert(folder / "plain", folder / "model")
    return folder


def flip_a_bit(rng, files):
    """Flips a bit in one of the files, and returns where."""
    path = rng.choice(sorted(path for path in files if path.is_file() and path.stat().st_size))
    content = path.read_bytes()
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
    return f"bit {bit} of byte {place} of {path}"


def is_told(flip, read, wanted, caplog):
    """Whether a flip was reported, by an error of one line or a warning; if not, `read` must return `wanted`."""
    caplog.clear()
    try:
        found = read()
    except LitJaxError as error:
        assert "\n" not in str(error), flip
        return True
    except OSError as error:
        assert error.filename, flip  # The command turns it into a sentence.
        return True
    except Exception as error:
        raise AssertionError(flip) from error
    warned = any(record.levelno >= logging.WARNING for record in caplog.records)
    assert found == wanted or warned, flip
    return warned


@pytest.mark.parametrize("kind", READERS)
def test_a_flipped_bit_in_what_is_read_changes_no_number_silently(written, kind, tmp_path, caplog):
    check_flips(written / kind, READERS[kind], tmp_path, caplog, 6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_no_flip_of_a_bit_in_a_set_an_index_or_a_model_changes_a_number_silently(
    written, kind, tmp_path, caplog
):
    check_flips(written / kind, READERS[kind], tmp_path, caplog, FLIPS)


def check_flips(whole, reader, tmp_path, caplog, flips):
    wanted, rng = reader(whole), random.Random(0)
    told = 0
    for number in range(flips):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        flip = flip_a_bit(rng, folder.glob("**/*"))
        told += is_told(flip, lambda folder=folder: reader(folder), wanted, caplog)
        shutil.rmtree(folder)
    assert told > flips / 3


@pytest.mark.slow
def test_no_flip_of_a_bit_changes_a_number_silently_or_ends_in_a_traceback(stopped, caplog):
    folder, config, wanted = stopped
    rng = random.Random(0)
    told = 0
    for _ in range(FLIPS):
        shutil.rmtree(folder / "run")
        shutil.copytree(folder / "whole", folder / "run")
        flip = flip_a_bit(rng, [*folder.glob("run/**/*"), *folder.glob("tar/.lit_jax-*.arrow")])
        told += is_told(flip, lambda: outcome(config, folder / "run"), wanted, caplog)
    assert told > FLIPS / 4
