"""How many processors a process can use, according to the files of Linux."""

import os

import pytest

from lit_jax.utils import cores as module
from lit_jax.utils.cores import cores


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes what a process finds in /proc and /sys on a machine with 64 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(module, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(module, "_ROOT", tmp_path / "cgroup")

    def write(membership, **quotas):
        (tmp_path / "membership").write_text(membership)
        for path, text in quotas.items():
            file = tmp_path / "cgroup" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return write


@pytest.mark.parametrize(
    ("membership", "quotas", "found"),
    [
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {}, 64),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/job/step\n", {"job/cpu.max": "800000 100000\n", "job/step/cpu.max": "max 100000\n"}, 8),
        ("0::/seen/from/outside\n", {"cpu.max": "200000 100000\n"}, 2),
        (
            "4:memory:/\n3:cpu,cpuacct:/\n",
            {"cpu/cpu.cfs_quota_us": "600000", "cpu/cpu.cfs_period_us": "100000"},
            6,
        ),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("3:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "600000", "cpu/cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_a_quota_is_respected_whatever_set_it(membership, quotas, found, files):
    files(membership, **quotas)
    assert cores() == found


def test_a_bound_process_has_the_processors_to_which_it_is_bound(files, monkeypatch):
    files("0::/\n", **{"cpu.max": "800000 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert cores() == 2


def test_without_linux_all_processors_of_the_machine_count(files, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert cores() == 10
