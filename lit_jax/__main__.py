"""lit-jax COMMAND, or python -m lit_jax COMMAND: finds the command, and turns an error into one sentence."""

import errno
import gc
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

from lit_jax.utils import device_errors, temporary
from lit_jax.utils.errors import ConfigError, LitJaxError
from lit_jax.utils.shown import Formatter, in_line, say
from lit_jax.utils.suggestions import suggestion

COMMANDS = {
    "quickstart": "Train a small model on towers and pictures of the package index.",
    "train": "Train a model; started again on a workdir, the run continues.",
    "evaluate": "Measure retrieval, zero-shot classification, linear classifiers.",
    "compare": "Compare two results of evaluate under the same protocol.",
    "align": "Train heads between frozen towers, and rank pairs of them.",
    "grid": "Run the LiT design grid: towers locked, tuned or from scratch.",
    "classify": "Say how well each of some labels fits a picture.",
    "embed": "Embed pictures into an index: a folder of vectors to search.",
    "search": "Find the pictures of an index nearest to a text or a picture.",
    "serve": "Answer questions of programs in JSON: embed, classify, search.",
    "demo": "Serve a small web page: picture and labels in, probabilities out.",
    "export": "Write a checkpoint as a Hugging Face folder with a model card.",
    "convert": "Write a model of another project or layout as a new folder.",
    "blend": "Write a model between two others, weight by weight.",
    "report": "Write one page about a run: curves, metrics, pictures, mistakes.",
    "plan": "Compute what a config costs on a TPU slice, without the slice.",
    "doctor": "Check this machine, and a workdir with its checkpoints.",
    "encoders": "List the supported architectures.",
    "prepare": "Write any source as ArrayRecord shards that TFDS reads.",
    "score": "Write how similar each picture of a source is to its captions.",
    "filter": "Write the records of a source that are worth training on.",
    "inspect": "Show what is in a source: sizes, lengths, duplicates, pairs.",
}
# Entries for several commands at once, so that the list of commands fits on a screen.
TOGETHER = {
    ("align", "grid"): "Train heads between frozen towers; run LiT's grid of locks.",
    ("embed", "search"): "Embed pictures into an index; find the nearest in it.",
    ("serve", "demo"): "Answer programs in JSON; the same with a small web page.",
    ("score", "filter"): "Measure how well pairs fit; keep some as a set that trains.",
}
# These commands compare with PyTorch, or run a config file that can import it; the others start faster without it.
WITH_TORCH = ("quickstart", "train", "align", "grid", "export", "plan")
# These compute nothing.
WITHOUT_JAX = frozenset({"compare", "encoders", "inspect", "prepare"})
_FULL = (errno.ENOSPC, errno.EDQUOT)  # Errors for which Python often does not name the file.
_BY_SIGNAL = 128  # Added to the number of the signal that ended the process, as shells do.
EXIT_CODES = (
    "Exit status: 0 done, 2 usage or config, 3 data, 4 weights or checkpoint, 5 not\n"
    "finite, 6 another process was lost or a step hung, 42 preempted and saved."
)


def listed() -> list[tuple[str, str]]:
    """The rows of the list of commands: their names, and what they do."""
    first = {names[0]: (", ".join(names), text) for names, text in TOGETHER.items()}
    others = {name for names in TOGETHER for name in names[1:]}
    return [first.get(name, (name, text)) for name, text in COMMANDS.items() if name not in others]


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process with its documented status."""
    own_process = args is None
    args = list(sys.argv[1:] if args is None else args)
    # A standard stream is None if the parent process closed it.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if "_LIT_JAX_COMPLETE" in os.environ:
        from lit_jax.commands import shell

        shell.complete(COMMANDS)
    if args[:1] == ["help"]:  # `help train`, as in other programs.
        args = [*args[1:2], "--help"]
    command = args[0] if args else ""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("lit_jax").setLevel(logging.INFO)
    # Orbax logs the stack trace of every error that it also raises.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable
    if own_process:
        # Tracing makes millions of objects that stay alive; collecting among them takes a fifth of the time to the
        # first step.
        gc.set_threshold(100_000, 50, 100)
        sys.excepthook = _uncaught
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # As `nohup` sets it.
                signal.signal(number, _end)
        warnings.showwarning = _warn
    # Pillow's warning about images that `image_files` refuses anyway.
    warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")
    # Python's warning, at exit and after our message, about Orbax's writes that had not begun when the disk was full.
    warnings.filterwarnings("ignore", "coroutine '.*serialize.*' was never awaited", RuntimeWarning)
    if own_process and command not in WITH_TORCH:
        # utils/_transformers.py reads it, in worker processes as well.
        os.environ.setdefault("LIT_JAX_TORCH", "0")
    try:
        _check_surroundings(command, args, own_process)
        run(command, args[1:])
        if own_process:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Everything is saved; the process only has to end.
    except LitJaxError as error:
        say(f"lit-jax: {error}", stream=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # The reader of our output, such as `head`, has closed it.
        _discard_output(own_process)
        sys.exit(_BY_SIGNAL + signal.SIGPIPE)  # Not 0: the work may be incomplete.
    except OSError as error:
        is_homeless = error.filename is None and _has_no_place()
        if error.filename is None and error.errno not in _FULL and not is_homeless:
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        way = "set TMPDIR to a folder that can be written" if is_homeless else "choose another path"
        if isinstance(error, PermissionError) and not is_homeless:
            way = f"see to its permissions, or {way}"
        say(f"lit-jax: {place}{error.strerror}; {way}", stream=sys.stderr)
        _discard_output(own_process)  # At exit Python would try again to write the rest of the output.
        sys.exit(ConfigError.exit_code)
    except (RuntimeError, AssertionError, MemoryError, ValueError) as error:
        if not (why := device_errors.sentence(error, command)):
            raise
        say(f"lit-jax: {in_line(why)}", stream=sys.stderr)
        sys.exit(ConfigError.exit_code)
    except KeyboardInterrupt:
        sys.exit(_BY_SIGNAL + signal.SIGINT)


def _check_surroundings(command: str, args: Sequence[str], own_process: bool) -> None:
    """Raises ConfigError if the current folder cannot be used, to which relative paths refer, or XLA_FLAGS cannot."""
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(
            f"the current folder cannot be used ({error.strerror}); change to another one"
        ) from error
    if own_process and command in COMMANDS.keys() - WITHOUT_JAX and not {"-h", "--help"} & {*args}:
        device_errors.check_flags()


def _end(number: int, frame: FrameType | None) -> None:
    """Ends the process by an exception, so that drafts and temporary files are removed.

    Not during an import: some extension modules do not survive an exception there.
    """
    while frame is not None and "importlib" not in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is None:
        sys.exit(_BY_SIGNAL + number)
    temporary.remove_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _has_no_place() -> bool:
    """Whether no temporary file can be written, for which Python raises an OSError without a file name."""
    try:
        temporary.place()
    except ConfigError:
        return True
    return False


def _discard_output(own_process: bool) -> None:
    if own_process:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints the traceback of a bug in lit_jax through `say`, since it can contain names from untrusted files."""
    say("".join(traceback.format_exception(kind, error, trace)), end="", stream=sys.stderr)


def _warn(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
) -> None:
    """Prints a library's warning in Python's format, through `say`."""
    say(warnings.formatwarning(message, category, filename, lineno), end="", stream=sys.stderr)


def _unraisable(problem: "sys.UnraisableHookArgs") -> None:
    """Reports errors in callbacks as Python does, except those of TensorStore after a failed save."""
    if str(problem.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(problem)


def run(command: str, args: Sequence[str]) -> None:
    """Runs one command; for "" lists them. Raises ConfigError for a command that does not exist."""
    if command in ("", "-h", "--help"):
        say("Usage: lit-jax COMMAND [OPTIONS]; lit-jax COMMAND --help lists the options.\n")
        say("\n".join(f"  {names:<14}{text}" for names, text in listed()))
        say(f"\n{EXIT_CODES}")
        sys.exit(0 if command else 2)
    if command in ("--version", "-V"):
        from lit_jax import __version__

        say(f"lit_jax {__version__}")
        return
    if command not in COMMANDS:
        close = suggestion(command, (*COMMANDS, "--help", "--version"))
        hint = f"did you mean {close}?" if close else f"there are {', '.join(COMMANDS)}"
        raise ConfigError(f"no command {command!r}; {hint}")
    from lit_jax.commands import shell

    shell.call(command, args)


if __name__ == "__main__":
    main()
