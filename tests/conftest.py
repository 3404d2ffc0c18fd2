"""Every test sees eight virtual CPU devices and no network; what XLA compiled once it does not compile again."""

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
    # Compiles in half the time; later versions do not know it. Its bits depend on what is fused if it may use FMA.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false --xla_cpu_max_isa=AVX"
# A program is compiled in one piece, since the tests keep every core busy anyway: a fifth less work than in pieces.
os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # Compiling is nearly all that these tests do.
# Of PyTorch in each worker; its threads would wait for each other, busily.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "xla")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# Bytes of a worker after which what JAX has compiled in it is dropped, and by which it must have grown to do so again.
FULL, GROWN = 5 << 29, 1 << 29
LIMIT = pytest.StashKey[int]()

# Tracing makes millions of objects that live on; to look through them takes time.
gc.set_threshold(100_000, 50, 100)


# Files that take the longest, first those whose slow tests do, the longest first: a worker that began one of them
# last would work on alone.
LONGEST = """
    faults/test_kills tools/plan/test_plan parity/test_encoders test_colabs test_versions data/sources/test_fuzz_parquet
    test_fuzz faults/test_flips e2e/test_commands e2e/test_train train/test_train_step losses/test_contrastive
    e2e/test_frozen_towers hf/facade/test_model hf/test_load parity/test_swin parity/test_dual faults/test_bucket
    workdir/test_checkpoints parity/test_decoders tools/align/test_align parity/test_image_size parity/test_t5
    parallel/test_distributed losses/test_captions test_configs test_readme test_strangers test_old_formats
""".split()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The longest files first; the order within a file stays. What `sampled` leaves out is slow."""
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
    """The memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def pytest_runtest_teardown(item):
    """What tests hold stays, so the next time is when the worker has grown above what was left."""
    if resident_bytes() > item.config.stash.get(LIMIT, FULL):
        import jax

        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":  # Otherwise the memory stays with the process.
            ctypes.CDLL(None).malloc_trim(0)
        item.config.stash[LIMIT] = max(FULL, resident_bytes() + GROWN)


@pytest.fixture(scope="session")
def gcs():
    """A Google Cloud Storage on this machine; one for all tests, since TensorStore asks once a process where it is."""
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
    """The address of an empty bucket of that."""
    gcs.buckets["bucket"], gcs.seen = {}, None
    gcs.calls.clear()
    gcs.broken.clear()
    return "gs://bucket"


@pytest.fixture
def loggers_as_they_were():
    """For tests that call `main` in their own process, where it sets up what is logged."""
    before = {name: logging.getLogger(name).level for name in ("lit_jax", "absl", "asyncio")}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def any_types():
    """For tests that hand in what the annotations exclude: `pytest` by itself would refuse it before we do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
