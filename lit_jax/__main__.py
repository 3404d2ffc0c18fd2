"""lit-jax COMMAND = python -m lit_jax COMMAND: finds the command, and turns an error into one sentence."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches

from lit_jax.utils.errors import ConfigError, LitJaxError

COMMANDS = {
    "quickstart": "The whole way, on towers and pictures from the package index.",
    "train": "Train; started again on a workdir it goes on where it stopped.",
    "evaluate": "Measure retrieval and zero-shot classification.",
    "compare": "Two results of evaluate side by side, if they were measured alike.",
    "grid": "The LiT design grid: each tower locked, tuned or from scratch.",
    "classify": "Which of some labels fits a picture, and how well.",
    "embed": "Pictures -> an index: a folder of vectors to search in.",
    "search": "The pictures of an index nearest to a text or a picture.",
    "demo": "A small web page: a picture and labels in, probabilities out.",
    "export": "Checkpoint -> Hugging Face folder with model card, checked.",
    "report": "One page about a run: curves, metrics, pictures, mistakes.",
    "plan": "What a config costs on a TPU slice that need not be there.",
    "doctor": "The state of this machine, and of a workdir and its checkpoints.",
    "encoders": "The table of architectures.",
    "prepare": "Any source -> ArrayRecord shards that TFDS reads.",
    "inspect": "What is in a source: sizes, lengths, duplicates, a sheet of pairs.",
}
# PyTorch compares, or a config file, which is anyone's Python, may want it; the others answer sooner without.
WITH_TORCH = ("quickstart", "train", "grid", "export", "plan")
EXIT_CODES = (
    "Exit status: 0 done, 2 usage or config, 3 data, 4 weights or checkpoint, 5 not\n"
    "finite, 6 another process was lost or a step hung, 42 preempted and saved."
)


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process with its documented status."""
    own_process = args is None
    args = list(sys.argv[1:] if args is None else args)
    if "_LIT_JAX_COMPLETE" in os.environ:
        from lit_jax.commands import shell

        shell.complete(COMMANDS)
    if args[:1] == ["help"]:  # `help train` as other programs have it.
        args = [*args[1:2], "--help"]
    if not args or args[0] in ("-h", "--help"):
        print("Usage: lit-jax COMMAND [OPTIONS]: dual encoders in pure JAX.\n")
        print("\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items()))
        print(f"\nlit-jax COMMAND --help says what a command takes.\n{EXIT_CODES}")
        sys.exit(0 if args else 2)
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("lit_jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(
        logging.CRITICAL
    )  # Orbax logs the stack of every error that it also raises.
    # Pillow's advice on pictures that `pictures` refuses in a sentence of its own.
    warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")
    if own_process and args[0] not in WITH_TORCH:
        os.environ.setdefault("LIT_JAX_TORCH", "0")  # Read in _transformers, also by worker processes.
    try:
        run(args[0], args[1:])
    except LitJaxError as error:
        print(f"lit-jax: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # Whoever read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is None:
            raise
        print(
            f"lit-jax: {error.filename}: {error.strerror}; choose a place that can be used", file=sys.stderr
        )
        sys.exit(ConfigError.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def run(command: str, args: Sequence[str]) -> None:
    """Runs one command. Raises ConfigError for one that does not exist."""
    if command in ("--version", "-V"):
        from lit_jax import __version__

        print(f"lit_jax {__version__}")
        return
    if command not in COMMANDS:
        close = get_close_matches(command, (*COMMANDS, "--help", "--version"), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
        raise ConfigError(f"no command {command!r}; {hint}")
    from lit_jax.commands import shell

    shell.call(command, args)


if __name__ == "__main__":
    main()
