"""An index that is written by processes that know nothing of each other has the same bytes as that of one process."""

import logging
import shutil
import signal
import threading
import time

import pytest

import lit_jax
from lit_jax.__main__ import main
from lit_jax.inference import left_out
from lit_jax.inference import shard_set as sets
from lit_jax.inference.embedder import Embedder
from lit_jax.inference.index import Index
from tests import tiny
from tests.processes import finish, spawn

N, BROKEN = 12, (3, 4, 5, 10)

pytestmark = pytest.mark.usefixtures("loggers_as_they_were")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    lit_jax.save(folder / "model", *tiny.dual(), tiny.processor())
    tiny.write_pairs(folder / "pairs", N)
    for i in BROKEN:
        (folder / "pairs" / f"{i:03}.png").write_bytes(b"<html>")
    return folder


@pytest.fixture(scope="module")
def model(place):
    return Embedder(place / "model")


@pytest.fixture(scope="module")
def whole(place, model):
    """The index that one process writes."""
    return embed(place, model, place / "whole").folder


@pytest.fixture
def unfinished(place, model, tmp_path_factory, tmp_path):
    """An index of four parts without the last."""
    made = place / "unfinished"
    for i in range(0 if made.exists() else 3):
        embed(place, model, made, shard=(i, 4))
    return shutil.copytree(made, tmp_path / "i")


def embed(place, model, out, **options):
    options = {"shard_size": 3, "on_bad_record": "skip"} | options
    return lit_jax.embed(f"folder:{place / 'pairs'}", out, model, **options)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_parts_in_any_order_give_the_bytes_of_one_process(place, model, whole, tmp_path):
    out = tmp_path / "i"
    for i in (2, 0, 0, 3):  # One of them twice.
        assert embed(place, model, out, shard=(i, 4)) is None
    with pytest.raises(lit_jax.DataError, match="not complete"):
        Index.open(out)
    assert embed(place, model, out, shard=(1, 4)).skipped == BROKEN
    assert contents(out) == contents(whole)
    # This part is started again.
    assert embed(place, model, out, shard=(3, 4)).pictures == N - len(BROKEN)
    assert contents(out) == contents(whole)


def test_a_killed_part_goes_on_and_its_drafts_are_deleted(place, model, whole, tmp_path, monkeypatch):
    out, done, pictures = tmp_path / "i", [], Embedder.pictures

    def killed_in_the_second(self, part, **options):
        done.append(part.spec)
        if len(done) == 2:
            (out / "embeddings-00001-of-00004.npy.0123abcd.part").write_bytes(b"half")
            raise KeyboardInterrupt
        return pictures(self, part, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "pictures", killed_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            embed(place, model, out, shard=(0, 2))
        embed(place, model, out, shard=(0, 2))
    assert len(done) == 3  # Two shards, one of them twice.
    embed(place, model, out, shard=(1, 2))
    assert contents(out) == contents(whole)


def test_more_parts_than_shards_and_a_call_without_a_part_complete_it(place, model, whole, tmp_path):
    out = tmp_path / "i"
    assert [embed(place, model, out, shard=(i, 20)) for i in range(0, 20, 10)] == [None] * 2
    assert embed(place, model, out).folder == out
    assert contents(out) == contents(whole)


def test_another_plan_is_refused_at_once_even_without_any_shard(place, model, tmp_path):
    out = tmp_path / "i"
    assert embed(place, model, out, shard=(0, 20)) is None  # This part has no shard.
    for change in ({"shard_size": 4}, {"format": "parquet"}):
        with pytest.raises(lit_jax.ConfigError, match=f"an index of another {next(iter(change))}; give"):
            embed(place, model, out, shard=(1, 20), **change)
    with pytest.raises(lit_jax.ConfigError, match="shard 4/4: want I/N"):
        embed(place, model, out, shard=(4, 4))


@pytest.mark.parametrize("at", ["ledger", "sums", "manifest", "sweeping"])
def test_the_next_start_finishes_what_a_kill_interrupted(place, model, whole, tmp_path, monkeypatch, at):
    out = tmp_path / "i"
    for i in range(3):
        embed(place, model, out, shard=(i, 4))

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if at == "ledger":
            patch.setattr(left_out, "read", killed)
        elif at == "sums":
            patch.setattr(sets.checksums, "write", killed)
        elif at == "manifest":
            patch.setattr(sets, "put", killed)
        else:
            put = sets.put
            patch.setattr(sets, "put", lambda *rest: (put(*rest), killed()))
        with pytest.raises(KeyboardInterrupt):
            embed(place, model, out, shard=(3, 4))
    assert embed(place, model, out, shard=(2, 4)).folder == out
    assert contents(out) == contents(whole)


def test_two_parts_that_finish_at_the_same_time_complete_the_index_once(
    place, model, whole, unfinished, tmp_path, monkeypatch
):
    out, gate, complete = unfinished, threading.Barrier(2, timeout=30), []
    missing, whole_set = sets.ShardSet.missing, sets.ShardSet._complete

    def seen_by_both(self):
        found = missing(self)
        if not found:
            gate.wait()
        return found

    def slow(self, manifest):
        complete.append(threading.current_thread().name)
        time.sleep(0.2)
        whole_set(self, manifest)

    embed(place, model, tmp_path / "other", shard=(3, 4))
    for path in (tmp_path / "other").iterdir():
        shutil.copy(path, out)  # Both find that none is missing.
    monkeypatch.setattr(sets.ShardSet, "missing", seen_by_both)
    monkeypatch.setattr(sets.ShardSet, "_complete", slow)
    found = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(embed(place, model, out, shard=(i, 4))))
        for i in (0, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(complete) == 1 and [index.folder for index in found] == [out, out]
    assert contents(out) == contents(whole)


def test_without_locks_the_parts_leave_completion_to_a_call_without_a_part(
    place, model, whole, tmp_path, monkeypatch, caplog
):
    out = tmp_path / "i"
    monkeypatch.setattr("lit_jax.utils.parts._locked", lambda _: False)
    with caplog.at_level(logging.WARNING):
        assert [embed(place, model, out, shard=(i, 2)) for i in range(2)] == [None, None]
    assert "has no locks: start this again without --shard" in caplog.text
    assert contents(embed(place, model, out).folder) == contents(whole)


def test_the_command_says_what_is_missing(place, tmp_path, capsys):
    words = f"embed folder:{place}/pairs --model {place}/model --output {tmp_path}/i --on-bad-record skip"
    words += " --shard-size 6 --shard"
    for part, status, says in (
        ("1/2", 0, "part 1/2 of "),
        ("0/2", 0, "8 pictures in "),
        ("2/2", 2, "--shard: shard 2/2: want I/N"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words.split(), part])
        assert ended.value.code == status
        said = capsys.readouterr()
        assert says in (said.err if status else said.out)


@pytest.mark.slow
def test_four_processes_of_which_two_are_killed_write_the_bytes_of_one(tmp_path):
    tiny.write_models_and_pictures(tmp_path)
    words = f"-m lit_jax embed shapes:1024/train --model {tmp_path}/model --shard-size 64 --output".split()
    ((status, said),) = finish(spawn([[*words, tmp_path / "whole"]], 1))
    assert status == 0, said
    parts = [[*words, tmp_path / "i", "--shard", f"{i}/4"] for i in range(4)]
    running = spawn(parts, 1)
    while len(list((tmp_path / "i").glob("embeddings-*.npy"))) < 2:
        assert any(process.poll() is None for process, _ in running)
        time.sleep(0.02)
    for process, _ in running[1:3]:
        process.send_signal(signal.SIGKILL)
    statuses = [status for status, _ in finish(running)]
    assert statuses[0] == statuses[3] == 0
    assert not (tmp_path / "i" / "manifest.json").exists() or -9 not in statuses
    assert [status for status, _ in finish(spawn(parts[1:3], 1))] == [0, 0]
    assert contents(tmp_path / "i") == contents(tmp_path / "whole")
    assert len(list((tmp_path / "i").glob("embeddings-*.npy"))) == 16
