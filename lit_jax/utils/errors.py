"""The errors that a user can cause, one class for each kind, with the exit status of the command."""

from lit_jax.utils.shown import in_line

STALLED = 6  # Exit status of a run that ended because another process or a device no longer answers.


class LitJaxError(ValueError):
    """A mistake explained in one sentence: what it concerns, what was found, what is wanted, the remedy.

    The sentence passes `in_line`, so that it stays on one line whatever untrusted names it contains.
    """

    exit_code = 1

    def __str__(self) -> str:
        return in_line(super().__str__())


class ConfigError(LitJaxError):
    """A setting, an argument or a combination of them that cannot work."""

    exit_code = 2


class DataError(LitJaxError):
    """A source that is missing, empty, too small, or too often broken."""

    exit_code = 3


class WeightError(LitJaxError):
    """Weights or a model config that do not fit the architecture they are meant for."""

    exit_code = 4


class CheckpointError(LitJaxError):
    """A checkpoint that cannot be restored into this run."""

    exit_code = 4


class LostProcessError(LitJaxError):
    """Another process of the run ended, for instance one that reads data."""

    exit_code = STALLED


class PreemptedError(LitJaxError):
    """A run that was told to end, and has saved its state."""

    exit_code = 42


class NonFiniteError(LitJaxError):
    """Training whose loss or parameters are no longer finite."""

    exit_code = 5


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if it has no message.

    A line that ends in a colon only announces the next ones, so all of them belong to it. An error of the system is
    its path and what the system says, without its number.
    """
    if isinstance(error, OSError) and error.errno and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    first, *rest = (str(error).strip() or type(error).__name__).splitlines()
    return " ".join([first, *rest]).replace("  ", " ") if first.rstrip().endswith(":") else first
