"""A workdir in a bucket: what is sent there and when, who owns it, and what is refused."""

import json
import socket
import sys
import time
from pathlib import Path

import fsspec
import pytest

from lit_jax.tools.grid.grid import grid
from lit_jax.tools.quickstart.quickstart import quickstart
from lit_jax.train.loop import train
from lit_jax.utils.errors import CheckpointError, ConfigError
from lit_jax.workdir import bucket as bucket_module
from lit_jax.workdir import lock
from lit_jax.workdir.bucket import Bucket, opened

CONFIG = {
    "steps": 1,
    "batch_size": 8,
    "model": {"vision": "./missing", "text": "./missing"},
    "data": {"train": "folder:missing"},
}


def uploads(gcs):
    return [call for call in gcs.calls if call.startswith("POST /upload/storage")]


@pytest.mark.parametrize(
    "address", ["s3://bucket/run", "gs://bucket", "gs://bucket/", "https://host/run", "memory://run"]
)
def test_another_address_is_refused_before_anything_is_read(address):
    with pytest.raises(ConfigError, match=r"wanted a folder or gs://BUCKET/FOLDER") as error:
        train(CONFIG, address)
    assert address in str(error.value)


@pytest.mark.parametrize("where", ["run", "/tmp/run", "~/run", "a:b/run", "run/gs:"])
def test_a_folder_stays_a_folder_and_a_tilde_is_the_home_of_the_user(where, monkeypatch):
    monkeypatch.setenv("HOME", "/home/user")
    with opened(where) as place:
        assert str(place) == where.replace("~", "/home/user")


def test_without_its_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    # It is registered once it has been used.
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "gs", raising=False)
    with pytest.raises(ConfigError, match=r"gcsfs is not installed: pip install 'lit_jax\[gcs\]'"):
        train(CONFIG, "gs://bucket/run")


@pytest.mark.parametrize("command", [quickstart, grid])
def test_commands_that_write_files_of_their_own_require_a_folder(command):
    with pytest.raises(ConfigError, match="workdir gs://bucket/run is an address; wanted a folder of this"):
        command({}, "gs://bucket/run")


def test_a_push_sends_what_has_changed_and_nothing_else(gcs, bucket):
    with opened(Path(f"{bucket}/run")) as place:  # A Path drops one of the two slashes.
        assert isinstance(place, Bucket) and str(place) == "gs://bucket/run" and place.name == "run"
        (place / "a.txt").write_text("one")
        (place / "b").mkdir()
        (place / "b" / "c.txt").write_text("two")
        (place / "b" / "half.part").write_text("no")
        place.push()
        assert {name: o.data for name, o in gcs.buckets["bucket"].items()} == {
            "run/a.txt": b"one",
            "run/b/c.txt": b"two",
        }
        gcs.calls.clear()
        place.push()
        assert not gcs.calls
        (place / "a.txt").write_text("more")
        place.push()
        assert len(uploads(gcs)) == 1 and gcs.buckets["bucket"]["run/a.txt"].data == b"more"
    with opened(f"{bucket}/run") as place:
        place.pull("a.txt", "b", "nothing")
        assert (place / "a.txt").read_text() == "more" and (place / "b" / "c.txt").read_text() == "two"
        gcs.calls.clear()
        place.push()
        assert not gcs.calls


def test_a_request_that_nobody_waits_for_is_not_a_call(gcs):
    with gcs.lock:
        with socket.create_connection(("127.0.0.1", int(gcs.url.rpartition(":")[2]))) as asking:
            asking.sendall(b"GET /storage/v1/b/bucket/o HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.2)
    time.sleep(0.2)
    assert gcs.calls == []


def test_a_large_file_is_sent_in_pieces(gcs, bucket, monkeypatch):
    monkeypatch.setattr(bucket_module, "_LARGE", 1000)
    with opened(f"{bucket}/run") as place:
        (place / "large").write_bytes(bytes(5000))
        place.push()
    assert gcs.buckets["bucket"]["run/large"].data == bytes(5000)


def test_the_latest_run_owns_the_workdir_and_the_previous_one_ends(gcs, bucket, caplog):
    with opened(f"{bucket}/run") as old, opened(f"{bucket}/run") as new:
        with lock.workdir_lock(old):
            (old / "metrics.jsonl").write_text("old")
            lock.sync_workdir(old)
            with lock.workdir_lock(new):
                assert "has not released it" in caplog.text
                (old / "metrics.jsonl").write_text("older")
                with pytest.raises(
                    ConfigError, match="lock is no longer this run's: another run began later"
                ):
                    lock.sync_workdir(old)
                (new / "config.json").write_text("{}")
                lock.sync_workdir(new)
        # Not sent even at the end of the run.
        assert gcs.buckets["bucket"]["run/metrics.jsonl"].data == b"old"
    assert set(gcs.buckets["bucket"]) == {"run/metrics.jsonl", "run/config.json"}


def test_a_run_that_fails_sends_what_is_left_at_its_end(gcs, bucket):
    with pytest.raises(ZeroDivisionError), opened(f"{bucket}/run") as place, lock.workdir_lock(place):
        (place / "metrics.jsonl").write_text("last words")
        raise ZeroDivisionError
    assert set(gcs.buckets["bucket"]) == {"run/metrics.jsonl"}


def test_a_bucket_that_is_missing_or_refuses_is_reported_in_a_sentence(gcs, bucket):
    with opened("gs://nowhere/run") as place:
        with (
            pytest.raises(ConfigError, match="cannot be written: there is no such bucket"),
            lock.workdir_lock(place),
        ):
            pass
        with pytest.raises(CheckpointError, match="gs://nowhere/run cannot be read"):
            place.pull("config.json")
    with opened(f"{bucket}/run") as place:
        gcs.broken["POST /upload"] = 403
        with (
            pytest.raises(ConfigError, match=r"cannot be written: Forbidden.*; choose another"),
            lock.workdir_lock(place),
        ):
            pass
        (place / "a.txt").write_text("one")
        with pytest.raises(CheckpointError, match=r"gs://bucket/run can no longer be written \(Forbidden"):
            place.push()
        gcs.broken = {"GET /": 403}
        with pytest.raises(CheckpointError, match="cannot be read"):
            place.pull("a.txt")


def test_the_lock_is_json_and_a_broken_one_belongs_to_nobody(gcs, bucket):
    with opened(f"{bucket}/run") as place:
        place.take()
        assert set(json.loads(gcs.buckets["bucket"]["run/lock"].data)) == {"run", "since"}
        fsspec.filesystem("gs").pipe_file("bucket/run/lock", b"\xff")
        assert not place.ours() and place.take() is None and place.ours()
