"""Headers of .npy files are read by one thread at a time, whichever files they belong to."""

import ast
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lit_jax.inference.index_files import paths_of, read_signs
from lit_jax.utils import npy
from tests.inference.test_precision import clustered, written


def stored(array):
    file = io.BytesIO()
    np.save(file, array)
    file.seek(0)
    return file


def test_a_header_and_an_array_are_read_as_by_numpy():
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    np.testing.assert_array_equal(npy.load(stored(array)), array)
    file = stored(array)
    np.lib.format.read_magic(file)
    assert npy.read_header(file) == ((2, 3), False, np.dtype(np.int16))


def test_shards_of_an_index_are_opened_by_many_threads_and_parsed_by_one(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    folder = written(tmp_path / "index", clustered(rng, 64, rng.normal(size=(4, 16))), "binary", 8)
    inside, most = set(), []
    literal_eval = ast.literal_eval

    def watched(text):
        inside.add(threading.get_ident())
        time.sleep(0.005)
        most.append(len(inside))
        inside.discard(threading.get_ident())
        return literal_eval(text)

    monkeypatch.setattr(ast, "literal_eval", watched)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(read_signs, paths_of(folder, "npy", n, 8, "binary"), 8, 16) for n in range(8)]
        assert all(job.result().shape == (8, 2) for job in jobs)
    assert most == [1] * 8
