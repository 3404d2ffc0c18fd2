"""Errors of JAX that are not our fault: no device, a device that is out of memory, or a variable with a bad value."""

import os
import re
import sys
import warnings

from lit_jax.utils import temporary
from lit_jax.utils.errors import ConfigError, first_line

_TRAINING = frozenset({"train", "quickstart", "align", "grid"})
_OF_XLA = re.compile(r"[EF]\d{4} ")  # How XLA's log begins a line about an error.
_NO_ROOM = "RESOURCE_EXHAUSTED"


def is_full(error: BaseException | None) -> bool:
    """Whether `error`, or one of its causes, is that this machine or a device ran out of memory.

    Such an error does not mean that the data being read is broken.
    """
    while error is not None:
        if isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError) and str(error).startswith(_NO_ROOM)
        ):
            return True
        error = error.__cause__
    return False


def sentence(error: Exception, command: str) -> str:
    """The message for an `error` that `command` did not catch; "" if it is not of this kind."""
    if isinstance(error, ValueError):
        if _is_of_config(error):
            return f"a JAX environment variable has a bad value: {first_line(error)}; unset it"
        return _by_setting(error)
    if isinstance(error, MemoryError):
        return f"the memory of this machine is full ({first_line(error)}); {_less(command)}"
    if not isinstance(error, RuntimeError | AssertionError) or "jax" not in sys.modules:
        return ""
    if is_full(error):
        return f"a device has no room for this: {first_line(error)}; {_less(command)}"
    if "Disallowed " in str(error) and (name := guarded_transfers()):
        return f"{name} forbids moving arrays between host and devices, without which nothing is computed; unset it"
    if why := _no_device():
        asked = os.environ.get("JAX_PLATFORMS")
        setting = f" with JAX_PLATFORMS={asked}" if asked else ""
        return f"JAX finds no device{setting}: {why}; JAX_PLATFORMS=cpu computes without an accelerator"
    return _by_setting(error)


def _by_setting(error: Exception) -> str:
    """The sentence for an error that names a setting made by an environment variable, or its value; "" for others."""
    for name, value in sorted(os.environ.items()):
        named = (
            name.startswith("JAX_")
            and "_" in (short := name.removeprefix("JAX_").lower())
            and short in str(error)
        )
        if named or (name == "JAX_DEFAULT_DEVICE" and f"'{value}'" in str(error)):
            return f"{name} is {value}, which forbids this: {first_line(error).rstrip('.')}; unset it"
    return ""


def check_flags() -> None:
    """Raises ConfigError if XLA does not accept the variable XLA_FLAGS, for which it would end the process.

    XLA itself is asked, in a process of its own that only reads the flags.
    """
    if not os.environ.get("XLA_FLAGS", "").strip() or not hasattr(os, "fork"):
        return
    try:
        from jax._src.lib import _jax
    except ImportError:  # Another version of JAX than is known here: then XLA itself has the word.
        return

    with temporary.temporary_folder() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of a fork beside threads: the child only reads the flags.
        said = folder / "said"
        if not (child := os.fork()):
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT, 0o600), 2)
            try:
                _ = _jax.CompileOptions().executable_build_options.debug_options
            finally:
                os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return
        lines = said.read_text("utf-8", "replace").splitlines()
    reasons = [line.partition("] ")[2] for line in lines if _OF_XLA.match(line)]
    raise ConfigError(f"XLA does not accept XLA_FLAGS: {(reasons or ['it ends'])[0]}; correct it or unset it")


def guarded_transfers() -> str:
    """The variable by which JAX forbids moving arrays between host and devices; "" if none does."""
    import jax

    names = [name for name, value in jax.config.values.items() if str(value).startswith("disallow")]
    return next((name.upper() for name in sorted(names) if name.startswith("jax_transfer_guard")), "")


def _is_of_config(error: Exception) -> bool:
    """Whether JAX raised it while reading its environment variables."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == "jax._src.config"


def _less(command: str) -> str:
    if command in _TRAINING:
        return (
            "lower config.micro_batch, which does not change the loss, set config.model.remat to 'full', or lower "
            "config.batch_size"
        )
    return "give it less at once, with a lower --batch-size where the command has one"


def _no_device() -> str:
    """Why JAX has no device; "" if it has one."""
    import jax

    try:
        jax.devices()
    except AssertionError:
        return "none of that kind is visible to this process"
    except RuntimeError as error:
        return first_line(error)
    return ""
