"""Work in parts: every shard has one owner, the first writer's file stays, and one worker at a time finishes."""

import threading
import time
from itertools import chain

import pytest

from lit_jax.utils.errors import ConfigError
from lit_jax.utils.parts import Part, alone, is_draft, put_first, put_last


@pytest.mark.parametrize(("shards", "count"), [(16, 4), (10, 3), (2, 5), (1, 1), (7, 7)])
def test_each_shard_is_in_one_part(shards, count):
    numbers = [list(Part(index, count).numbers(shards)) for index in range(count)]
    assert list(chain(*numbers)) == list(range(shards))
    assert max(map(len, numbers)) - min(map(len, numbers)) <= 1


def test_a_part_is_read_from_its_text_and_from_no_other():
    assert Part.parse("3/16") == Part(3, 16) == Part.of((3, 16))
    for text in ("16/16", "1", "-1/4", "a/b", "1/0", "1/2/3", "٣/16", "1/16 "):
        with pytest.raises(ConfigError, match=r"^shard .*: want I/N"):
            Part.parse(text)
    with pytest.raises(ConfigError, match="shard 4/4"):
        Part.of((4, 4))


def test_the_file_of_the_first_of_two_writers_stays_and_no_draft_is_left(tmp_path):
    path = tmp_path / "a"

    def slow(draft):
        assert is_draft(draft.name)
        put_first(path, lambda other: other.write_text("first"))
        draft.write_text("second")

    put_first(path, slow)
    assert path.read_text() == "first"
    put_last(path, lambda draft: draft.write_text("third"))
    assert path.read_text() == "third" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_without_hard_links_a_file_is_still_written(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links")))
    put_first(tmp_path / "a", lambda draft: draft.write_text("x"))
    put_first(tmp_path / "a", lambda draft: draft.write_text("y"))
    assert (tmp_path / "a").read_text() == "x"


def test_a_draft_that_the_finisher_swept_away_is_not_an_error_if_the_file_is_there(tmp_path):
    def swept(draft):
        (tmp_path / "a").write_text("done")

    put_first(tmp_path / "a", swept)
    with pytest.raises(FileNotFoundError):
        put_first(tmp_path / "b", lambda draft: None)


def test_a_lock_is_held_by_one_at_a_time_and_leaves_the_file_alone(tmp_path):
    (tmp_path / "plan").write_text("plan")
    inside, most = [], []

    def enter():
        with alone(tmp_path / "plan") as locked:
            inside.append(locked)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4 and (tmp_path / "plan").read_text() == "plan"
    with pytest.raises(FileNotFoundError), alone(tmp_path / "none"):
        pass
