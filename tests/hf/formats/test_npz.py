"""Arrays of NumPy's npz files are read as they were written, also by many threads at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lit_jax.hf.formats.npz import NpzFile


def test_many_threads_read_what_was_written(tmp_path):
    written = {f"layer_{i}/kernel": np.full((40, i + 1), i, np.float32) for i in range(60)}
    np.savez(tmp_path / "model.npz", **written)
    file = NpzFile(tmp_path / "model.npz")
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            found = dict(zip(written, pool.map(file.get_tensor, written), strict=True))
        for name, array in written.items():
            np.testing.assert_array_equal(found[name], array)
