"""Regular expressions of a tokenizer.json: quick ones are known by their form, others are tried in a process.

The file is also the script of that process, which imports nothing but tokenizers and has limits of time and memory.
"""

import re
import subprocess
import sys
from pathlib import Path

SECONDS = 4  # CPU time for a file of a few megabytes.
LARGEST_MEMORY = 2 << 30  # Bytes.
_PER_SECOND = 8 << 20  # This many bytes of a file give one more second.
_CLASS = re.compile(r"\[(?:\\.|[^\]\\\[])*\]|\\[pP]\{\^?\w+\}|\\.")
_LOOK = re.compile(r"\(\?[=!]x\)")


def is_quick(pattern: str) -> bool:
    """Whether a pattern needs about as many steps as a text has characters, judged only by its form.

    Such a pattern has no group and repeats at most one thing; several of them may be joined by `|`.
    """
    plain = _LOOK.sub("", _CLASS.sub("x", pattern))
    if len(pattern) > 500 or set(plain) & set("()[]\\"):
        return False
    bounds = re.findall(r"\{(\d*),?(\d*)\}", plain)
    return all(len(number) < 3 for bound in bounds for number in bound) and all(
        len(re.findall(r"[*+{]", part)) <= 1 for part in plain.split("|")
    )


def run(path: Path) -> None:
    """Tokenizes a few texts with a tokenizer.json. Raises ValueError if that fails or takes too much."""
    seconds = SECONDS + path.stat().st_size // _PER_SECOND
    command = [sys.executable, "-I", __file__, str(path), str(seconds), str(LARGEST_MEMORY)]
    advice = "its patterns go back over a text again and again, or make it far longer; use simpler ones"
    try:
        # The limit of wall-clock time is longer, since other processes may compute as well.
        done = subprocess.run(command, capture_output=True, timeout=10 * seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"a short text takes more than {seconds} s; {advice}") from error
    if done.returncode < 0:
        raise ValueError(f"a short text takes more than {seconds} s or {LARGEST_MEMORY >> 30} GiB; {advice}")
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason was given"]
        raise ValueError(f"a text of a few words cannot be tokenized: {reason[-1][:200]}")


def _main(path: str, seconds: int, memory: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(path)
    words = ["a photo of a cat", "Ünï 漢字 🙂 123,456.78!?", "x1 " * 50, "\t\n  ", "'s't're"]
    for text in (
        *words,
        *(letter * n for n in (30, 1_000, 4_000) for letter in ("a", " ", "1", "!", "ab", "a ")),
    ):
        encoded = tokenizer.encode(text)
        if len(encoded.ids) > 1_000 + 100 * len(text):
            sys.exit(f"a text of {len(text)} characters gives {len(encoded.ids)} tokens")


if __name__ == "__main__":
    try:
        _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    except BaseException as reason:  # A panic of tokenizers is not an Exception.
        sys.exit(" ".join((str(reason) or type(reason).__name__).split()))
