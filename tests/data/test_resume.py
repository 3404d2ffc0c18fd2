"""A run that was cut off in the middle of an epoch resumes with the same batches, however they are read."""

import itertools
import json
import logging
import os
import subprocess
import sys

import numpy as np
import psutil
import pytest

from lit_jax.data.bad_records import Ledger
from lit_jax.data.sources.registry import open_source
from lit_jax.data.train_batches import TrainTransforms
from lit_jax.data.transforms.tokenizer import make_count_tokens, make_tokenize
from lit_jax.data.transforms.train_decode import make_train_decode
from lit_jax.utils.errors import DataError
from tests import tiny
from tests.data.conftest import RECORDS, read_batches

B, SEED, CUT, END = 8, 3, 7, 15  # CUT and END count batches; an epoch has fifteen.
# Broken, as are their copies: some are drawn before the cut and others only after it, which a test checks.
BROKEN = (1, 31)


def bad(write_folder, name="pictures"):
    rows = [
        {"file_name": f"{i:02d}.png", "captions": ["a red square", "the circle of blue"], "id": str(i)}
        for i in range(RECORDS * 3)
    ]
    folder = write_folder(rows, broken=BROKEN, name=name)
    # Copies, since rows that name the same file would be one record.
    for i, row in enumerate(rows[RECORDS:]):
        copy = (folder / rows[i % RECORDS]["file_name"]).read_bytes()
        (folder / row["file_name"]).write_bytes(copy)
    return open_source(f"folder:{folder}")


def batches(source, start=0, count=END, **options):
    processor = tiny.processor()
    transforms = TrainTransforms(
        make_train_decode(processor.image_processor, "fast", "crop_flip"),
        make_tokenize(processor.tokenizer, 12),
    )
    fixed = {"batch_size": B, "seed": SEED, "start": start, "max_bad_share": 0.1}
    reading = read_batches(source, transforms, **({"threads": None} | fixed | options))
    taken = list(itertools.islice(reading, count - start))
    reading.close()
    return taken, reading


def assert_same(some, others):
    assert len(some) == len(others)
    for batch, want in zip(some, others, strict=True):
        for name in ("images", "index"):
            np.testing.assert_array_equal(batch[name], want[name])
        for name in batch["texts"]:
            np.testing.assert_array_equal(batch["texts"][name], want["texts"][name])


@pytest.fixture
def straight(write_folder):
    source = bad(write_folder)
    return source, *batches(source, threads=0)


def test_records_are_skipped_before_the_cut_and_others_after_it(straight, tmp_path):
    source, _, reading = straight
    _, before = batches(source, 0, CUT, threads=0, ledger_path=tmp_path / "l")
    assert 0 < len(before.ledger.broken) < len(reading.ledger.broken)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("before", "after"),
    [({"threads": 0}, {"threads": 1}), ({"threads": 4}, {"threads": 0}), ({"threads": 1}, {"workers": 1})],
    ids=str,
)
def test_a_run_that_was_cut_sees_every_later_batch_of_the_straight_one(straight, before, after, tmp_path):
    resumes(straight, before, after, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"workers": 4}, {"workers": 4}),
        ({"workers": 4}, {"workers": 1}),
        ({"workers": 1}, {"workers": 4}),
        ({"workers": 4}, {"threads": 0}),
    ],
    ids=str,
)
def test_the_number_of_processes_may_change_at_the_cut(straight, before, after, tmp_path):
    resumes(straight, before, after, tmp_path)


def resumes(straight, before, after, tmp_path):
    source, whole, reading = straight
    path = tmp_path / "broken.jsonl"
    first, _ = batches(source, 0, CUT, ledger_path=path, **before)
    then, resumed = batches(source, CUT, ledger_path=path, **after)
    assert_same(first, whole[:CUT])
    assert_same(then, whole[CUT:])
    assert resumed.ledger.broken == reading.ledger.broken
    assert resumed.ledger.rows == reading.ledger.rows
    records = [json.loads(line)["record"] for line in path.read_text().splitlines()]
    # Each is listed once, although both runs drew it.
    assert sorted(records) == sorted(reading.ledger.broken)


def test_the_counts_follow_the_batches_and_not_what_was_read_ahead(write_folder):
    source = bad(write_folder)
    for threads in (0, 4):
        _, reading = batches(source, 0, CUT, threads=threads, prefetch=8)
        assert reading.ledger.rows == CUT * B
        assert set(reading.ledger.broken) == set(batches(source, 0, CUT, threads=0)[1].ledger.broken)


def test_a_ledger_whose_last_line_was_cut_by_a_kill_is_read_up_to_that_line(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"record": 5, "reason": "not an image"}\n{"record": 7, "rea')
    assert Ledger("a", 40, 0.1, path, rows=8).broken == {5: "not an image"}
    assert Ledger("a", 40, 0.1, path).broken == {}


def test_the_broken_share_of_a_large_source_is_that_of_the_rows_read():
    ledger = Ledger("a", 1_000_000, 0.01, rows=20_000)
    for record in range(200):
        ledger.add(record, "broken")
    with pytest.raises(DataError, match=r"201 of 20000 records are broken, more than the 1\.0% allowed"):
        ledger.add(200, "broken")


@pytest.mark.slow
def test_an_error_in_a_process_reads_like_one_in_a_thread(write_folder):
    source = bad(write_folder)
    words = "record 1[0-9]*: not an image: 6 bytes"
    with pytest.raises(DataError, match=words):
        batches(source, on_bad_record="error", workers=1)
    with pytest.raises(DataError, match=words):
        batches(source, on_bad_record="error", threads=1)


def test_processes_end_when_the_process_for_which_they_read_is_killed(folder):
    code = """
import sys
from lit_jax.data.sources.registry import open_source
from tests.data.conftest import read_batches
batches = read_batches(open_source(sys.argv[1]), workers=1)
next(batches)
print("reading", flush=True)
input()
"""
    command = [sys.executable, "-c", code, f"folder:{folder}"]
    killed = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "reading\n"
    children = psutil.Process(killed.pid).children(recursive=True)
    assert children
    killed.kill()
    killed.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_captions_that_are_cut_are_counted_and_one_warning_says_so(write_folder, caplog):
    rows = [
        {"file_name": f"{i:02d}.png", "caption": "a red square " * (5 if i % 4 == 0 else 1)}
        for i in range(RECORDS)
    ]
    source = open_source(f"folder:{write_folder(rows)}")
    tokenizer = tiny.tokenizer()
    with caplog.at_level(logging.WARNING):
        for threads in (0, 2):
            _, reading = batches(source, 0, 5, threads=threads, count_tokens=make_count_tokens(tokenizer, 12))
            assert (reading.captions, reading.cut) == (40, 10)
    told = [line for line in caplog.messages if "are longer than the text length" in line]
    assert len(told) == 2  # One from each reading.
    assert "10 of the first 40 captions (25.0 %) are longer" in told[0]


@pytest.mark.slow
def test_a_process_that_decodes_a_million_records_holds_no_list_of_them(tmp_path):
    """Its memory is the same with a million records as with forty."""
    sizes = []
    for records in (40, 1_000_000):
        folder = tmp_path / str(records)
        tiny.write_pairs(folder, 8)
        for i in range(1000):
            (folder / f"d{i}").symlink_to(".")  # A million paths then lead to one picture.
        line = '{"file_name": "d%d/d%d/000.png", "caption": "a red square"}\n'
        lines = "".join(line % divmod(i, 1000) for i in range(records))
        (folder / "metadata.jsonl").write_text(lines)
        processor = tiny.processor()
        transforms = TrainTransforms(
            make_train_decode(processor.image_processor), make_tokenize(processor.tokenizer, 12)
        )
        source = open_source(f"folder:{folder}")
        reading = read_batches(source, transforms, batch_size=B, seed=SEED, workers=1)
        for _ in range(20):
            next(reading)
        children = psutil.Process(os.getpid()).children(recursive=True)
        sizes.append(max(child.memory_info().rss for child in children))
        reading.close()
    # 8 bytes per record, once or twice; a list of strings takes 100 or more.
    assert sizes[1] - sizes[0] < 40e6, sizes
