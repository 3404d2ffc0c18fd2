"""The digests of a folder, and calls that are retried."""

import errno
import shutil
import subprocess

import pytest
from etils import epath

from lit_jax.utils import checksums


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(checksums, "_WAIT", 0.0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "f" / "deep").mkdir(parents=True)
    (tmp_path / "f" / "a").write_bytes(b"1")
    (tmp_path / "f" / "deep" / "with space").write_bytes(b"2")
    checksums.write(tmp_path / "f")
    return tmp_path / "f"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum on this machine")
def test_sha256sum_reads_the_digests(folder):
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines() == ["a: OK", "deep/with space: OK"]


def test_a_folder_is_whole_until_something_in_it_changes(folder):
    assert checksums.damage(folder) is None
    (folder / "later").write_bytes(b"3")
    assert checksums.damage(folder) is None
    (folder / "a").write_bytes(b"0")
    assert checksums.damage(folder) == "a has another sha256 than when it was written"
    (folder / "a").unlink()
    assert checksums.damage(folder) == "a is missing"


class Flaky:
    """Fails `times` times with `error`, then returns 7."""

    def __init__(self, times, error):
        self.left, self.error, self.calls = times, error, 0

    def __call__(self):
        self.calls += 1
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return 7


def test_a_call_with_a_transient_error_is_retried_up_to_a_limit(caplog):
    busy = OSError(errno.EIO, "bucket is busy")
    for times in (0, 1, 3):
        call = Flaky(times, busy)
        assert checksums.retried(call, "gs://b/x") == 7 and call.calls == times + 1
    assert "gs://b/x: [Errno 5] bucket is busy; trying again (2 of 4)" in caplog.text
    call = Flaky(9, busy)
    with pytest.raises(OSError, match="bucket is busy"):
        checksums.retried(call, "gs://b/x")
    assert call.calls == checksums.TRIES


@pytest.mark.parametrize(
    "error", [FileNotFoundError(), PermissionError(), OSError(errno.ENOSPC, "full")], ids=str
)
def test_a_permanent_error_is_raised_at_once(error):
    call = Flaky(9, error)
    with pytest.raises(type(error)):
        checksums.retried(call, "x")
    assert call.calls == 1


def test_a_bucket_that_fails_twice_is_still_read(folder, monkeypatch):
    left = [2]
    plain = type(epath.Path(folder)).read_text

    def busy(path, *args, **options):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.EIO, "bucket is busy")
        return plain(path, *args, **options)

    monkeypatch.setattr(type(epath.Path(folder)), "read_text", busy)
    assert checksums.damage(folder) is None and left[0] < 0
    left[0] = 99
    assert "bucket is busy" in checksums.damage(folder)
