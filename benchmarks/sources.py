"""A million records: time to the first batch, and memory; time and memory of `prepare`; and decoded sets.

    python benchmarks/sources.py open --records 1000000
    python benchmarks/sources.py prepare --records 10000
    python benchmarks/sources.py decoded --records 2000

`open` writes the same tiny pictures in each form (10,000 of them, repeated), opens each form in its own process, once
to index it and once more, and reads shuffled batches. "heap" is memory without mapped files. `prepare` rewrites JPEGs
of 640x480 with one process and with two; its memory is the proportional set size of all processes together, sampled
every tenth of a second. `decoded` prepares such JPEGs as they are and with --decoded, and reads both sets in random
order: records alone, and records whose pictures become pixels as in training; rates are per second of CPU time.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from PIL import Image

from lit_jax.utils.console import table

UNIT = 10_000  # Records per shard; all other shards are links to the first one.
BATCH, BATCHES = 256, 100
FORMS = ("folder", "wds", "parquet", "tfds")
CHILD = """
import io, json, re, sys, time
import grain, numpy as np
import tensorflow_datasets
from lit_jax.data.sources import folder, parquet, tfds, webdataset
from PIL import Image
from lit_jax.data.sources.registry import open_source
from lit_jax.data.train_batches import Reading, TrainTransforms, train_batches

def heap():
    return int(re.search(r"RssAnon:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024

def decode(data, key=0):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32)))

def tokenize(texts):
    return {"input_ids": np.zeros((len(texts), 8), np.int32)}

spec, size, batches = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
before, start = heap(), time.perf_counter()
source = open_source(spec)
opened = time.perf_counter() - start
reader = train_batches(source, TrainTransforms(decode, tokenize), Reading(threads=2), batch_size=size, seed=0)
next(reader)
first, early = time.perf_counter() - start, heap()
start = time.perf_counter()
for _ in range(batches):
    next(reader)
rate, late = batches * size / (time.perf_counter() - start), heap()
reader.close()
start = time.perf_counter()
if not spec.startswith("folder"):
    source.fingerprint()
print(json.dumps([len(source), opened, first, early - before, late - before, rate, time.perf_counter() - start]))
"""


def write_forms(root: Path, records: int) -> dict[str, str]:
    """Writes each form; returns form -> the spec of a source with `records` records in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lit_jax.data.sources.registry import open_source
    from lit_jax.data.tools.prepare import PrepareOptions, prepare

    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(100):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(file, "PNG")
        pictures.append(file.getvalue())
    folder, wds, hub = (root / name for name in ("folder", "wds", "hub"))
    for directory in (folder, wds, hub):
        directory.mkdir()
    for i, picture in enumerate(pictures):
        (folder / f"{i}.png").write_bytes(picture)
    with (folder / "metadata.jsonl").open("w") as f:
        for i in range(records):
            f.write(
                json.dumps({"file_name": f"{i % 100}.png", "caption": f"caption {i}", "id": str(i)}) + "\n"
            )
    with tarfile.open(wds / "00000.tar", "w") as tar:
        for i in range(UNIT):
            for name, data in ((f"{i:09}.png", pictures[i % 100]), (f"{i:09}.txt", b"caption %d" % i)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    rows = [{"bytes": pictures[i % 100], "path": f"{i}.png"} for i in range(UNIT)]
    pq.write_table(
        pa.table({"image": rows, "caption": [f"caption {i}" for i in range(UNIT)]}),
        hub / "00000.parquet",
        row_group_size=1000,
    )
    prepare(
        open_source(f"wds:{wds}"), root / "set", name="tiny", split="train", options=PrepareOptions(shards=1)
    )
    shards = records // UNIT
    info_file = root / "set" / "dataset_info.json"
    info = json.loads(info_file.read_text())
    info["splits"][0] |= {"shardLengths": [str(UNIT)] * shards}
    info_file.write_text(json.dumps(info))
    first = (root / "set" / "tiny-train.array_record-00000-of-00001").rename(root / "shard")
    for i in range(shards):
        os.link(first, root / "set" / f"tiny-train.array_record-{i:05}-of-{shards:05}")
        if i:
            os.link(wds / "00000.tar", wds / f"{i:05}.tar")
            os.link(hub / "00000.parquet", hub / f"{i:05}.parquet")
    return {
        "folder": f"folder:{folder}",
        "wds": f"wds:{wds}/*.tar",
        "parquet": f"parquet:{hub}/*.parquet",
        "tfds": f"tfds:{root / 'set'}/train",
    }


def measure_open(records: int, forms: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        rows = []
        specs = write_forms(Path(name), records)
        for form in forms:
            runs = []
            for batches in (1, BATCHES):
                command = [sys.executable, "-c", CHILD, specs[form], str(BATCH), str(batches)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                runs.append(json.loads(done.stdout))
            n, opened, first, early, late, rate, fingerprint = runs[1]
            assert n == records, (form, n)
            seconds = [f"{value:.2f}" for value in (runs[0][1], opened, first, fingerprint)]
            rows.append((form, *seconds, f"{early:.0f}", f"{late:.0f}", f"{rate:,.0f}"))
        header = (f"{records:,} records", "index s", "open s", "first batch s", "fingerprint s", "heap MiB")
        print(table((*header, f"after {BATCHES} more", "records/s"), rows))


def write_photographs(root: Path, records: int) -> None:
    """Writes a folder of 640x480 JPEGs, about 110 KB each: a hundred different ones, repeated."""
    rng = np.random.default_rng(0)
    for i in range(min(records, 100)):
        rough = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).resize(
            (640, 480), Image.Resampling.BICUBIC
        )
        pixels = np.asarray(rough, np.int16) + rng.integers(-24, 25, (480, 640, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"{i:05}.jpg", quality=85)
    with (root / "metadata.jsonl").open("w") as f:
        for i in range(records):
            if i >= 100:
                os.link(root / f"{i % 100:05}.jpg", root / f"{i:05}.jpg")
            f.write(json.dumps({"file_name": f"{i:05}.jpg", "caption": f"caption {i}"}) + "\n")


class Prepared(NamedTuple):
    """The time and memory of a run."""

    wall: float  # Seconds.
    cpu: float  # Seconds of all processes.
    least: float  # User CPU seconds of the least busy worker.
    peak: float  # MiB of all processes together.


def run_prepare(processes: int, arguments: list[str]) -> Prepared:
    start, before = time.perf_counter(), os.times()
    command = [sys.executable, "-m", "lit_jax", "prepare", *arguments, "--processes", str(processes)]
    child = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak, used = 0, {}
    while child.poll() is None:
        try:
            tree = [child, *child.children(recursive=True)]
            peak = max(peak, sum(process.memory_full_info().pss for process in tree))
            used |= {process.pid: process.cpu_times().user for process in tree}
        except psutil.Error:  # A process has just ended.
            pass
        time.sleep(0.1)
    assert child.returncode == 0, child.returncode
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    least = sorted(used.values())[-processes]
    return Prepared(time.perf_counter() - start, cpu, least, peak / 2**20)


def measure_prepare(records: int, repeats: int) -> None:
    kinds = {"resized to 256": ["--resize", "256"], "as they are": []}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "photographs").mkdir()
        write_photographs(root / "photographs", records)
        size = (root / "photographs" / "00000.jpg").stat().st_size
        runs: dict[tuple[str, int], list[Prepared]] = {}
        for repeat in range(repeats):
            for kind, options in kinds.items():
                for processes in (2, 1):
                    out = root / f"{repeat}-{processes}-{len(options)}"
                    arguments = [f"folder:{root / 'photographs'}", "--output", str(out), "--name", "set"]
                    arguments += ["--split", "train", *options]
                    prepared = run_prepare(processes, arguments)
                    print(
                        kind, processes, *(f"{value:.1f}" for value in prepared), file=sys.stderr, flush=True
                    )
                    runs.setdefault((kind, processes), []).append(prepared)
                    subprocess.run(["rm", "-r", str(out)], check=True)
    rows = []
    for (kind, processes), repeated in runs.items():
        wall, cpu, least, peak = (statistics.median(column) for column in zip(*repeated, strict=True))
        seconds = [f"{value:.1f}" for value in (wall, cpu, least)]
        rows.append((kind, str(processes), *seconds, f"{peak:.0f}", f"{records / wall:,.0f}"))
    header = (f"{records:,} of {size / 1000:.0f} KB", "processes", "wall s", "CPU s", "of least busy worker")
    print(table((*header, "peak MiB", "records/s"), rows))


def measure_decoded(records: int, repeats: int) -> None:
    from lit_jax.data.sources.registry import open_source
    from lit_jax.data.tools.prepare import PrepareOptions, prepare
    from lit_jax.data.transforms.train_decode import make_train_decode
    from lit_jax.utils._transformers import transformers

    processor = transformers.ViTImageProcessorPil(size={"height": 224, "width": 224}, resample=3)
    decode, rows = make_train_decode(processor, "fast"), []
    order = np.random.default_rng(0).permutation(records).tolist()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "photographs").mkdir()
        write_photographs(root / "photographs", records)
        photographs = open_source(f"folder:{root / 'photographs'}")
        for kind, options in (
            ("JPEG of 640x480", PrepareOptions()),
            ("decoded to 224", PrepareOptions(decoded=processor)),
        ):
            out = prepare(photographs, root / kind, name="set", split="train", options=options)
            source = open_source(f"tfds:{out}/train")
            size = sum(file.stat().st_size for file in out.glob("*.array_record-*")) / records
            alone, whole = [], []
            for _ in range(repeats):
                start = time.process_time()
                for index in order:
                    source[index]
                middle = time.process_time()
                for index in order:
                    decode(source[index]["image"])
                alone.append(records / (middle - start))
                whole.append(records / (time.process_time() - middle))
            read, decoded = statistics.median(alone), statistics.median(whole)
            rates = (f"{rate:,.0f}" for rate in (read, read * size / 1e6, decoded, decoded * size / 1e6))
            rows.append((kind, f"{size / 1000:.1f}", *rates))
    print(table(("pictures", "kB each", "read/s/core", "MB/s", "read and decoded/s/core", "MB/s"), rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["open", "prepare", "decoded"])
    parser.add_argument(
        "--records", type=int, help="default: 1,000,000 to open, 10,000 to prepare, 2,000 decoded"
    )
    parser.add_argument(
        "--forms", nargs="+", choices=FORMS, default=list(FORMS), help="forms to open (default: all)"
    )
    parser.add_argument("--repeats", type=int, default=1, help="runs of prepare or decoded (default: 1)")
    args = parser.parse_args()
    if args.what == "open":
        records = args.records or 1_000_000
        if records % UNIT:
            parser.error(f"--records is {records}; want a multiple of {UNIT}")
        measure_open(records, args.forms)
    elif args.what == "decoded":
        measure_decoded(args.records or 2_000, args.repeats)
    else:
        measure_prepare(args.records or 10_000, args.repeats)


if __name__ == "__main__":
    main()
