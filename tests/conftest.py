"""Every test sees eight virtual CPU devices and no network; programs compiled by XLA are cached."""

import ctypes
import gc
import logging
import os
import sys
from collections import Counter
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import jaxtyping
import pytest

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
if version("jaxlib").startswith("0.10."):
    # Halves the compile time; later versions do not have it. With FMA, its bits would depend on what is fused.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false --xla_cpu_max_isa=AVX"
# Compile each program in one piece, a fifth less work than in several: the tests keep every core busy anyway.
os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # These tests spend most of their time compiling.
# For PyTorch in each worker: with more threads, they would wait for each other in busy loops.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "xla")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# Bytes of memory above which a worker drops what JAX has compiled, and by how many it must grow to do so again.
FULL, GROWN = 5 << 29, 1 << 29
LIMIT = pytest.StashKey[int]()

# Tracing makes millions of long-lived objects, and scanning them takes time.
gc.set_threshold(100_000, 50, 100)


# The files that take longest, in descending order, those with long slow tests first: a worker that began one of
# them last would be left working alone.
LONGEST = """
    faults/test_kills tools/plan/test_plan parity/test_encoders test_colabs test_versions data/sources/test_fuzz_parquet
    test_fuzz faults/test_flips e2e/test_commands e2e/test_train train/test_train_step losses/test_contrastive
    e2e/test_frozen_towers hf/facade/test_model hf/test_load parity/test_swin parity/test_dual faults/test_bucket
    workdir/test_checkpoints parity/test_decoders tools/align/test_align parity/test_image_size parity/test_t5
    parallel/test_distributed losses/test_captions test_configs test_readme test_strangers test_old_formats
""".split()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Puts the longest files first, without reordering a file's tests; marks what `sampled` leaves out as slow."""
    cases = Counter()
    for item in items:
        if sampled := item.get_closest_marker("sampled"):
            function = item.nodeid.partition("[")[0]
            if cases[function] % sampled.args[0]:
                item.add_marker(pytest.mark.slow)
            cases[function] += 1
    order = {str(Path(__file__).parent / f"{name}.py"): number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(str(item.path), len(order)))


def resident_bytes():
    """The memory of this process; 0 if the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def pytest_runtest_teardown(item):
    """Drops compiled programs above the limit, then raises it above the memory that the tests still hold."""
    if resident_bytes() > item.config.stash.get(LIMIT, FULL):
        import jax

        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":  # Otherwise the process keeps the memory.
            ctypes.CDLL(None).malloc_trim(0)
        item.config.stash[LIMIT] = max(FULL, resident_bytes() + GROWN)


@pytest.fixture(scope="session")
def gcs():
    """A Google Cloud Storage server, shared by all tests, since TensorStore reads its address once per process."""
    if find_spec("gcsfs") is None:
        pytest.skip("buckets need the extra gcs")
    import fsspec

    from tests.gcs_server import Gcs

    with Gcs() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environ.items():
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        yield server


@pytest.fixture
def bucket(gcs):
    """The address of an empty bucket on that server."""
    gcs.buckets["bucket"], gcs.seen = {}, None
    gcs.calls.clear()
    gcs.broken.clear()
    return "gs://bucket"


@pytest.fixture
def loggers_as_they_were():
    """Restores the log levels after tests that call `main`, which sets them, in their own process."""
    before = {name: logging.getLogger(name).level for name in ("lit_jax", "absl", "asyncio")}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def any_types():
    """For tests that pass what the annotations exclude: plain `pytest` checks types and would refuse it first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
