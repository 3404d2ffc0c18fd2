"""A missing or full device is reported in one sentence, and our own faults are not hidden."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from lit_jax import __main__
from lit_jax.utils import device_errors
from tests import tiny
from tests.cli import cli


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device_errors")
    tiny.write_models_and_pictures(folder)
    return folder


@pytest.mark.parametrize(
    ("platforms", "why"),
    [
        ("cuda", "none of that kind is visible to this process"),
        ("nothing", "Unable to initialize backend 'nothing'"),
    ],
)
def test_a_command_without_a_device_ends_in_one_sentence(platforms, why):
    ended = cli("doctor", JAX_PLATFORMS=platforms)
    assert ended.returncode == 2 and not ended.stdout
    assert ended.stderr.startswith(f"lit-jax: JAX finds no device with JAX_PLATFORMS={platforms}: {why}")
    assert ended.stderr.count("\n") == 1 and "JAX_PLATFORMS=cpu computes" in ended.stderr


def raised_by(raises, command, monkeypatch, capsys):
    """The exit status and the sentence of a command in which `raises` fails."""
    monkeypatch.setattr(__main__, "run", lambda *_: raises())
    with pytest.raises(SystemExit) as ended:
        __main__.main([command])
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "less"), [("train", "lower config.micro_batch"), ("embed", "--batch-size")]
)
def test_the_error_for_a_full_device_says_what_to_lower(command, less, monkeypatch, capsys):
    status, said = raised_by(lambda: jnp.zeros((1 << 24, 1 << 24)), command, monkeypatch, capsys)
    assert status == 2 and said.count("\n") == 1
    assert (
        said.startswith("lit-jax: a device has no room for this: RESOURCE_EXHAUSTED: Out of memory")
        and less in said
    )


def test_a_machine_whose_memory_is_full_is_reported(monkeypatch, capsys):
    def fail():
        raise MemoryError("Unable to allocate 8.00 GiB for an array")

    status, said = raised_by(fail, "embed", monkeypatch, capsys)
    assert status == 2 and "the memory of this machine is full (Unable to allocate 8.00 GiB" in said


@pytest.mark.parametrize(
    "error", [AssertionError("a fault"), RuntimeError("another"), jax.errors.JaxRuntimeError("INTERNAL: x")]
)
def test_every_other_error_keeps_its_traceback(error, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr(__main__, "run", lambda *_: fail())
    with pytest.raises(type(error)):
        __main__.main(["doctor"])
    assert device_errors.sentence(error, "doctor") == ""


@pytest.mark.parametrize(
    ("variable", "value"), [("JAX_ENABLE_X64", "maybe"), ("JAX_DEFAULT_MATMUL_PRECISION", "high-ish")]
)
def test_a_jax_variable_with_a_bad_value_is_named(variable, value):
    ended = cli("doctor", **{variable: value})
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert (
        ended.stderr.startswith("lit-jax: a JAX environment variable has a bad value: ")
        and value in ended.stderr
    )


def test_a_command_in_a_folder_that_is_gone_is_refused(tmp_path):
    line = 'cd "$1" && rmdir "$1" && "$2" -m lit_jax doctor'
    command = ["sh", "-c", line, "sh", str(tmp_path / "gone"), sys.executable]
    (tmp_path / "gone").mkdir()
    places = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": places})
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "the current folder cannot be used (No such file or directory)" in ended.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--xla_nonsense=3", "Unknown flag in XLA_FLAGS: --xla_nonsense=3; correct it"),
        ("--xla_force_host_platform_device_count=many", "Couldn't interpret value many for flag"),
        ("nowhere", 'Could not open file "nowhere"'),
    ],
)
def test_flags_that_xla_does_not_accept_are_told_before_it_ends_the_process(flags, says):
    ended = cli("doctor", XLA_FLAGS=flags)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and not ended.stdout
    assert ended.stderr.startswith("lit-jax: XLA does not accept XLA_FLAGS: ") and says in ended.stderr


def test_a_command_that_computes_nothing_does_not_look_at_the_flags_of_xla():
    for line in (["encoders"], ["train", "--help"]):
        assert cli(*line, XLA_FLAGS="--xla_nonsense").returncode == 0


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        (
            "JAX_TRANSFER_GUARD",
            "disallow",
            "JAX_TRANSFER_GUARD forbids moving arrays between host and devices",
        ),
        (
            "JAX_NUMPY_RANK_PROMOTION",
            "raise",
            "JAX_NUMPY_RANK_PROMOTION is raise, which forbids this: Operands",
        ),
        (
            "JAX_DEFAULT_DEVICE",
            "gpu",
            "JAX_DEFAULT_DEVICE is gpu, which forbids this: Unknown backend: 'gpu'",
        ),
    ],
)
def test_a_setting_of_jax_that_forbids_what_a_command_does_is_named(variable, value, says, pictures):
    line = f"classify {pictures}/pairs/000.png --model {pictures}/model --labels a,b"
    ended = cli(*line.split(), **{variable: value})
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"lit-jax: {says}") and ended.stderr.endswith("; unset it\n")
