"""The process that opens pictures: what it makes of them, and that it ends when one takes too long."""

import io
import threading

import pytest
from PIL import Image

from lit_jax.tools.demo import opener
from lit_jax.utils.errors import DataError
from tests.data.conftest import png


@pytest.fixture
def process():
    process = opener.Opener()
    yield process
    process.close()


def test_a_picture_becomes_small_and_what_is_none_is_refused_with_the_reason(process):
    process.check(png(0))
    small = Image.open(io.BytesIO(process.small(png(0), 5)))
    assert small.format == "WEBP" and max(small.size) == 5
    for content, reason in ((b"no picture", "not an image: 10 bytes"), (png(0)[:60], "cut off or damaged")):
        with pytest.raises(DataError, match=reason):
            process.check(content)
    process.check(png(0))


def test_a_picture_that_takes_too_long_ends_the_process_and_the_next_is_opened(process, monkeypatch):
    process.check(png(0))
    slow = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(slow, "PNG")
    monkeypatch.setattr(opener, "SECONDS", 0.01)
    with pytest.raises(DataError, match=r"needs more than .* seconds or 4 GiB to be opened; save it again"):
        process.check(slow.getvalue())
    monkeypatch.undo()
    process.check(png(0))


def test_threads_share_the_process(process):
    found = []
    threads = [threading.Thread(target=lambda i=i: found.append(process.small(png(i), 4))) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 6 and all(content[8:12] == b"WEBP" for content in found)
