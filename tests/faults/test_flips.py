"""A bit that flips anywhere in a workdir or beside its data changes no number without a word."""

import hashlib
import json
import logging
import os
import random
import shutil

import jax
import numpy as np
import pytest

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
    """All numbers of a run that is started again, and of what it is read as afterwards."""
    state = train(config, workdir)
    rows = [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in read_rows(workdir / "metrics.jsonl")
    ]
    run = read_trained(workdir)
    return digest((state.step, state.tuned, state.locked, state.opt)), rows, digest(run.params), run.step


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of which two steps are missing, its config, the folder of its tar, and its numbers without a flip."""
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


@pytest.mark.slow
def test_no_flip_of_a_bit_changes_a_number_without_a_word_or_ends_in_a_traceback(stopped, caplog):
    folder, config, wanted = stopped
    rng = random.Random(0)
    told = 0
    for number in range(FLIPS):
        shutil.rmtree(folder / "run")
        shutil.copytree(folder / "whole", folder / "run")
        files = [*folder.glob("run/**/*"), *folder.glob("tar/.lit_jax-*.arrow")]
        path = rng.choice(sorted(path for path in files if path.is_file() and path.stat().st_size))
        content = path.read_bytes()
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        flip = f"flip {number}: bit {bit} of byte {place} of {path.relative_to(folder)}"
        caplog.clear()
        try:
            found = outcome(config, folder / "run")
        except LitJaxError as error:
            assert "\n" not in str(error), flip
            told += 1
        except OSError as error:
            assert error.filename, flip  # Of which the command makes a sentence.
            told += 1
        except Exception as error:
            raise AssertionError(flip) from error
        else:
            warned = any(record.levelno >= logging.WARNING for record in caplog.records)
            assert found == wanted or warned, flip
            told += warned
    assert told > FLIPS / 4
