"""`prepare` writes what TFDS and `tfds:` read, and an incomplete set is never read."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from lit_jax.data.sources.registry import open_source
from lit_jax.data.tools import drafts, set_info
from lit_jax.data.tools import prepare as prepare_module
from lit_jax.data.train_batches import TrainTransforms
from lit_jax.data.transforms import bmp
from lit_jax.data.transforms.image_files import open_image
from lit_jax.data.transforms.image_processor import make_decode
from lit_jax.data.transforms.train_decode import make_train_decode
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.parts import Part
from tests.data.conftest import RECORDS, png, read_batches, row, tokenize
from tests.data.decoded import PROCESSORS


def prepare(source, out, split="train", name="tiny", **options):
    options = prepare_module.PrepareOptions(**options)
    return prepare_module.prepare(source, out, name=name, split=split, options=options)


@pytest.fixture
def source(folder):
    return open_source(f"folder:{folder}")


@pytest.fixture
def out(source, tmp_path):
    return prepare(source, tmp_path / "set", shards=3, license="CC0", description="x")


def test_a_prepared_set_is_the_source(source, out):
    prepared = open_source(f"tfds:{out}/train")
    assert [prepared[i] for i in range(RECORDS)] == [source[i] for i in range(RECORDS)]
    assert len(prepared) == RECORDS and prepared.class_names == source.class_names
    assert (prepared.license, prepared.description) == ("CC0", "x")
    assert len(list(out.glob("*.array_record-*-of-00003"))) == 3


def test_tfds_itself_reads_a_prepared_set(source, out):
    builder = tfds.builder_from_directory(out)
    (example, *_) = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    assert example["image"] == png(0) and list(example["captions"]) == [
        c.encode() for c in row(0)["captions"]
    ]
    assert example["id"] == b"r0" and builder.info.features["label"].int2str(example["label"]) == "cat"
    assert builder.info.splits["train"].num_examples == RECORDS


def test_no_path_of_this_machine_is_written(out, tmp_path):
    for file in out.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()


def test_a_second_split_joins_the_first(source, out):
    first = open_source(f"tfds:{out}/train").fingerprint()
    prepare(open_source(f"tfds:{out}/train[:25%]"), out, split="test")
    test = open_source(f"tfds:{out}/test")
    assert [test[i]["id"] for i in range(len(test))] == [f"r{i}" for i in range(10)]
    assert open_source(f"tfds:{out}/train").fingerprint() == first != test.fingerprint()
    assert open_source(f"tfds:{out}/train").license == "CC0"


def test_numbers_as_labels_and_records_without_one_survive(write_folder, tmp_path):
    rows = [{"file_name": "00.png", "label": 7}, {"file_name": "01.png", "caption": "x"}]
    out = prepare(open_source(str(write_folder(rows))), tmp_path / "set")
    first, second = (open_source(f"{out}/train")[i] for i in range(2))
    assert first["label"] == 7 and first["captions"] == [] and "label" not in second


@pytest.mark.parametrize("killed_at", ["third shard", "metadata", "last move"])
def test_a_kill_at_any_moment_leaves_no_set_and_the_next_run_resumes(
    source, tmp_path, monkeypatch, killed_at
):
    out = tmp_path / "set"
    written, replace, write_info = [], os.replace, set_info.write_info

    def move(a, b):
        if killed_at == "last move" and Path(b).name == "dataset_info.json":
            raise KeyboardInterrupt
        if killed_at == "third shard" and "00002-of" in Path(b).name:
            raise KeyboardInterrupt
        written.append(Path(b).name)
        replace(a, b)

    def info(*arguments):
        if killed_at == "metadata":
            raise KeyboardInterrupt
        write_info(*arguments)

    with monkeypatch.context() as m:
        m.setattr(os, "replace", move)
        m.setattr(set_info, "write_info", info)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, out, shards=4)
    with pytest.raises(DataError):
        open_source(f"tfds:{out}/train")
    whole = [name for name in written if name.endswith("-of-00004.json")]
    assert len(whole) == (2 if killed_at == "third shard" else 4)

    again = []
    monkeypatch.setattr(os, "replace", lambda a, b: (again.append(Path(b).name), replace(a, b)))
    prepare(source, out, shards=4)
    assert len([name for name in again if name.endswith("-of-00004.json")]) == 4 - len(whole)
    prepared = open_source(f"tfds:{out}/train")
    assert [prepared[i] for i in range(RECORDS)] == [source[i] for i in range(RECORDS)]
    assert not [p for p in out.iterdir() if p.name.startswith(".")]
    straight = prepare(source, tmp_path / "straight", shards=4)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in straight.iterdir()
    }


@pytest.mark.slow
def test_a_kill_at_work_keeps_complete_shards_and_leaves_no_worker_process(tmp_path):
    out, draft = tmp_path / "set", tmp_path / "set" / ".unfinished-train"
    command = [sys.executable, "-m", "lit_jax", "prepare", "shapes:6000/train", "--output", str(out)]
    command += ["--name", "tiny", "--split", "train", "--shards", "60", "--processes", "2"]
    child = psutil.Popen(command)
    while len(accounts := list(draft.glob("*-of-00060.json"))) < 3:
        assert child.poll() is None
        time.sleep(0.05)
    workers = child.children(recursive=True)
    child.kill()
    child.wait()
    assert len(workers) >= 2 and not psutil.wait_procs(workers, timeout=30)[1]
    whole = {path.stem: path.with_suffix("").stat().st_ino for path in draft.glob("*-of-00060.json")}
    assert len(whole) >= len(accounts)
    subprocess.run(command, check=True)
    assert {name: (out / name).stat().st_ino for name in whole} == whole and not draft.exists()
    source, prepared = open_source("shapes:6000/train"), open_source(f"tfds:{out}/train")
    assert len(prepared) == 6000 and all(prepared[i] == source[i] for i in range(0, 6000, 7))


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_parts_in_any_order_give_the_bytes_of_one_process(source, out, tmp_path):
    options = {"shards": 3, "license": "CC0", "description": "x"}
    parts = tmp_path / "parts"
    for index in (1, 1, 2):
        prepare(source, parts, shard=Part(index, 3), **options)
        with pytest.raises(DataError):
            open_source(f"tfds:{parts}/train")
    assert len(list((parts / ".unfinished-train").glob("*-of-00003"))) == 2
    for index in (0, 2):  # The second of them was started again by mistake.
        prepare(source, parts, shard=Part(index, 3), **options)
        assert contents(parts) == contents(out)


@pytest.mark.parametrize("at", ["metadata", "INFO", "sums", "removal"])
def test_a_kill_while_the_parts_are_published_is_made_good(source, out, tmp_path, monkeypatch, at):
    options = {"shards": 3, "license": "CC0", "description": "x"}
    parts, replace = tmp_path / "parts", os.replace

    def move(a, b):
        if Path(b) == parts / {"INFO": "dataset_info.json", "sums": "SHA256SUMS"}.get(at, ""):
            raise KeyboardInterrupt
        replace(a, b)

    def killed(*_, **__):
        raise KeyboardInterrupt

    prepare(source, parts, shard=Part(0, 2), **options)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", move)
        if at == "metadata":
            patch.setattr(set_info, "write_info", killed)
        if at == "removal":
            patch.setattr(drafts.shutil, "rmtree", lambda path, **_: killed() if "unf" in path.name else None)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, parts, shard=Part(1, 2), **options)
    prepare(source, parts, shard=Part(0, 2), **options)
    assert contents(parts) == contents(out)


def test_two_that_find_no_shard_missing_publish_the_set_once(source, out, tmp_path, monkeypatch):
    options = {"shards": 3, "license": "CC0", "description": "x"}
    parts, gate, finished = tmp_path / "parts", threading.Barrier(2, timeout=30), []
    finish, lock = prepare_module._finish, prepare_module.alone

    def slow(*rest):
        finished.append(rest)
        time.sleep(0.2)
        finish(*rest)

    def seen_by_both(path):
        gate.wait()
        return lock(path)

    monkeypatch.setattr(prepare_module, "_finish", slow)
    prepare(source, parts, shard=Part(0, 3), **options)
    prepare(source, parts, shard=Part(1, 3), **options)
    monkeypatch.setattr(prepare_module, "alone", seen_by_both)
    failed = []

    def start():
        try:
            prepare(source, parts, shard=Part(2, 3), **options)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(finished) == 1 and contents(parts) == contents(out)


def test_parts_of_other_work_are_refused_and_nothing_is_removed(source, folder, tmp_path):
    parts = tmp_path / "parts"
    prepare(source, parts, shards=4, shard=Part(0, 2))
    before = contents(parts)
    with pytest.raises(DataError, match="is of another source, or of other options"):
        prepare(source, parts, shards=5, shard=Part(1, 2))
    with pytest.raises(ConfigError, match="dedup compares all pictures"):
        prepare(source, parts, shards=4, shard=Part(1, 2), dedup=True)
    assert contents(parts) == before
    prepare(source, parts, shards=4)  # Without a part: it completes the set.
    with pytest.raises(ConfigError, match="already has a split"):
        prepare(source, parts, shards=5, shard=Part(1, 2))


def test_what_another_source_left_unfinished_is_made_anew(source, folder, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(set_info, "write_info", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(source, tmp_path / "set", shards=2)
    (folder / "00.png").write_bytes(png(77))
    out = prepare(source, tmp_path / "set", shards=2)
    assert open_source(f"tfds:{out}/train")[0]["image"] == png(77)


def test_the_file_that_makes_the_split_exist_is_moved_in_last(source, tmp_path, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(Path(b)), replace(a, b)))
    out = prepare(source, tmp_path / "set", shards=2)
    moved = [path.name for path in moved if path.parent == out]
    assert moved[-2:] == ["dataset_info.json", "SHA256SUMS"]
    assert sorted(moved) == sorted(p.name for p in out.iterdir())


def test_two_processes_write_what_one_writes(source, out, tmp_path):
    options = {"shards": 3, "license": "CC0", "description": "x"}
    two = prepare(source, tmp_path / "two", processes=2, dedup=True, **options)
    for file in out.iterdir():
        assert (two / file.name).read_bytes() == file.read_bytes()


def test_a_worker_reports_a_broken_record_like_the_process_itself(write_folder, tmp_path):
    source = open_source(str(write_folder([row(0), row(1), {"file_name": "gone.png"}])))
    for processes in (1, 2):
        with pytest.raises(DataError, match=r"pictures: record 2: 'gone\.png' cannot be read"):
            prepare(source, tmp_path / "set", shards=3, processes=processes)
        assert not list(tmp_path.rglob("*.part"))


def test_the_first_of_equal_pictures_stays_and_the_ledger_names_the_others(write_folder, tmp_path):
    pictures = [png(0), png(1), png(0), None, None, png(1), png(0)]
    rows = [{"file_name": f"{i}.png", "caption": str(i), "id": str(i)} for i in range(len(pictures))]
    folder = write_folder(rows)
    for i, picture in enumerate(pictures):
        if picture is not None:
            (folder / f"{i}.png").write_bytes(picture)
    source = open_source(str(folder))
    options = {"shards": 3, "on_bad_record": "skip"}
    out = prepare(source, tmp_path / "set", dedup=True, **options)
    prepared = open_source(f"tfds:{out}/train")
    assert [prepared[i]["id"] for i in range(len(prepared))] == ["0", "1"]
    lines = [json.loads(line) for line in (out / "dropped-train.jsonl").read_text().splitlines()]
    assert [(line["record"], line["reason"]) for line in lines] == [
        (2, "the same picture as record 0"),
        (3, "'3.png' cannot be read: No such file or directory"),
        (4, "'4.png' cannot be read: No such file or directory"),
        (5, "the same picture as record 1"),
        (6, "the same picture as record 0"),
    ]


def test_larger_pictures_become_smaller_and_the_others_keep_their_bytes(write_folder, tmp_path):
    folder = write_folder([{"file_name": name, "caption": "x"} for name in ("00.png", "large.png")])
    (folder / "large.png").write_bytes(png(0, (60, 40)))
    out = prepare(open_source(str(folder)), tmp_path / "set", resize=20)
    small, large = (open_source(f"tfds:{out}/train")[i]["image"] for i in range(2))
    assert small == png(0)
    picture = open_image(large)
    assert picture.size == (30, 20)
    want = open_image(png(0, (60, 40))).resize((30, 20), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(picture, np.int16) - np.asarray(want, np.int16)).mean() < 25  # JPEG, of noise.


@pytest.fixture
def decoded(source, tmp_path):
    return prepare(source, tmp_path / "decoded", shards=3, decoded=PROCESSORS["short edge"])


def test_a_decoded_set_gives_the_pixels_of_its_source_and_keeps_the_rest(source, decoded):
    prepared, decode = open_source(f"tfds:{decoded}/train"), make_decode(PROCESSORS["short edge"])
    for i in range(RECORDS):
        got, want = prepared[i], source[i]
        np.testing.assert_array_equal(decode(got.pop("image")), decode(want.pop("image")))
        assert got == want


def test_training_reads_the_same_batches_from_a_decoded_set(source, decoded):
    decode = make_train_decode(PROCESSORS["short edge"], "exact", "flip")
    transforms = TrainTransforms(decode, tokenize)
    batches = [read_batches(of, transforms) for of in (open_source(f"tfds:{decoded}/train"), source)]
    for _ in range(2 * RECORDS // 8):  # Two epochs.
        got, want = map(next, batches)
        np.testing.assert_array_equal(got["images"], want["images"])
        np.testing.assert_array_equal(got["texts"]["input_ids"], want["texts"]["input_ids"])


def test_pixels_are_stored_as_they_are_since_to_decompress_takes_longer_than_to_read(decoded):
    first = open_source(f"tfds:{decoded}/train")[0]["image"]
    assert first in next(decoded.glob("*-00000-of-00003")).read_bytes()


def test_tfds_itself_decodes_the_pictures_of_a_decoded_set(decoded):
    (example, *_) = tfds.builder_from_directory(decoded).as_data_source("train")
    image = open_image(open_source(f"tfds:{decoded}/train")[0]["image"])
    assert image.size == (41, 32)  # Of 9x7.
    np.testing.assert_array_equal(example["image"], np.asarray(image))


def test_a_black_picture_is_stored_with_all_of_its_zeros(write_folder, tmp_path):
    folder = write_folder([row(0)])
    Image.new("RGB", (9, 7)).save(folder / "00.png")
    out = prepare(open_source(str(folder)), tmp_path / "set", decoded=PROCESSORS["square"])
    stored = open_source(f"tfds:{out}/train")[0]["image"]
    assert bmp.size_of(stored) == (32, 32) and not any(stored[54:])


def test_parts_write_the_bytes_of_a_decoded_set(source, decoded, tmp_path):
    for index in (1, 0):
        prepare(source, tmp_path / "set", shards=3, decoded=PROCESSORS["short edge"], shard=Part(index, 2))
    assert contents(tmp_path / "set") == contents(decoded)


@pytest.mark.slow
def test_processes_write_the_bytes_of_a_decoded_set_with_a_processor_of_ours(source, tmp_path):
    options = {"shards": 3, "decoded": PROCESSORS["odd margins, as open_clip"]}
    one, two = (prepare(source, tmp_path / str(n), processes=n, **options) for n in (1, 2))
    assert contents(one) == contents(two)


@pytest.mark.parametrize("name", ["short edge", "square"])
def test_a_draft_is_gone_on_with_only_if_it_is_of_the_same_pixels(
    source, decoded, tmp_path, monkeypatch, name
):
    out, replace, written = tmp_path / "set", os.replace, []

    def move(a, b):
        if "00002-of" in Path(b).name:
            raise KeyboardInterrupt
        replace(a, b)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", move)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, out, shards=3, decoded=PROCESSORS[name])
    monkeypatch.setattr(os, "replace", lambda a, b: (written.append(Path(b).name), replace(a, b)))
    prepare(source, out, shards=3, decoded=PROCESSORS["short edge"])
    assert contents(out) == contents(decoded)
    assert len([name for name in written if name.endswith("-of-00003.json")]) == (
        3 if name == "square" else 1
    )


@pytest.mark.usefixtures("any_types")
def test_pictures_are_not_both_decoded_and_resized(source, tmp_path):
    with pytest.raises(
        ConfigError, match="decoded pictures have the size of their image processor, and resize"
    ):
        prepare(source, tmp_path / "set", decoded=PROCESSORS["square"], resize=20)
    with pytest.raises(ConfigError, match="is not a PIL image processor"):
        prepare(source, tmp_path / "set", decoded="google/vit-base-patch16-224")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("how", [{"verify": True}, {"resize": 4}, {"decoded": PROCESSORS["square"]}])
def test_verify_and_resize_and_decoded_find_pictures_that_cannot_be_decoded(write_folder, tmp_path, how):
    source = open_source(str(write_folder(broken=[3])))
    assert len(open_source(f"tfds:{prepare(source, tmp_path / 'all')}/train")) == RECORDS
    with pytest.raises(DataError, match="record 3: not an image"):
        prepare(source, tmp_path / "set", **how)
    out = prepare(source, tmp_path / "set", on_bad_record="skip", **how)
    assert len(open_source(f"tfds:{out}/train")) == RECORDS - 1


def test_a_source_of_broken_records_makes_no_set(write_folder, tmp_path):
    source = open_source(str(write_folder([{"file_name": "gone.png"}])))
    with pytest.raises(DataError, match="every one of its 1 records is broken"):
        prepare(source, tmp_path / "set", on_bad_record="skip")


def test_a_broken_record_is_an_error_or_left_out(write_folder, tmp_path):
    rows = [row(i) for i in range(4)]
    rows[1]["file_name"] = "gone.png"
    rows[2]["captions"] = ["\ud800"]
    source = open_source(str(write_folder(rows)))
    with pytest.raises(DataError, match=r"pictures: record 1: 'gone\.png' cannot be read"):
        prepare(source, tmp_path / "set")
    out = prepare(source, tmp_path / "set", shards=2, on_bad_record="skip")
    prepared = open_source(f"tfds:{out}/train")
    assert [prepared[i]["id"] for i in range(len(prepared))] == ["r0", "r3"]


def test_what_cannot_be_prepared_is_refused_and_existing_files_stay(
    source, out, folder, write_folder, tmp_path
):
    before = {p: p.read_bytes() for p in out.iterdir()}
    other = open_source(str(write_folder([{"file_name": "00.png", "label": "cow"}], name="other")))
    new = tmp_path / "x"
    for pairs, folder_of_set, options, error, words in [
        (source, out, {}, ConfigError, "already has a split 'train'"),
        (source, out, {"name": "huge", "split": "test"}, ConfigError, "holds the set 'tiny', not 'huge'"),
        (other, out, {"split": "test"}, DataError, "other labels than the splits already there"),
        (source, folder, {}, ConfigError, "exists and is not a prepared set"),
        (source, new, {"name": "Tiny-1"}, ConfigError, "name 'Tiny-1'"),
        (source, new, {"split": "a/b"}, ConfigError, "split 'a/b'"),
        (source, new, {"split": "all"}, ConfigError, "which TFDS uses for all splits"),
        (source, new, {"shards": 41}, ConfigError, "41 shards for 40"),
    ]:
        with pytest.raises(error, match=words):
            prepare(pairs, folder_of_set, **options)
    assert {p: p.read_bytes() for p in out.iterdir()} == before
    assert not new.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_set_with_a_damaged_description_gets_no_further_split(source, tmp_path, content):
    (tmp_path / "dataset_info.json").write_text(content)
    with pytest.raises(DataError, match="prepare the set again"):
        prepare(source, tmp_path, split="test")


def test_the_metadata_say_which_splits_there_are(out):
    info = json.loads((out / "dataset_info.json").read_text())
    assert [(s["name"], s["shardLengths"]) for s in info["splits"]] == [("train", ["13", "13", "14"])]
