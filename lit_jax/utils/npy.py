"""Files of one array (.npy), whose headers are read one at a time.

NumPy reads a header with `ast.literal_eval`, which before Python 3.11.8 sometimes fails if two threads call it at once
(SystemError, https://github.com/python/cpython/issues/106905).
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

_PARSING = threading.Lock()


def read_header(
    file: Any, read: Callable[[Any], Any] = np.lib.format.read_array_header_1_0
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran order, and dtype, of an open file after its version. Raises what `read` does."""
    with _PARSING:
        shape, by_column, dtype = read(file)
    return shape, by_column, dtype


def load(file: Any, **options: Any) -> Any:
    """np.load, without another thread reading a header at the same time."""
    with _PARSING:
        return np.load(file, **options)
