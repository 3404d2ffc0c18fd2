"""Hidden characters in texts of others become visible where they are shown; ordinary text stays as it is."""

import io
import logging
import subprocess
import sys
import unicodedata

import pytest

from lit_jax.utils.console import markdown, table
from lit_jax.utils.errors import WeightError
from lit_jax.utils.shown import Formatter, in_line, say, shown

KEPT = "\n\t\u200c\u200d\u00ad\u200b"  # Includes joiners, and points where a word can be broken.


def test_every_control_override_surrogate_and_tag_is_escaped_and_nothing_else():
    for code in range(0x110000):
        letter = chr(code)
        kind = unicodedata.category(letter)
        hidden = kind in ("Cc", "Cs", "Zl", "Zp") or 0xE0000 <= code < 0xE0080
        hidden |= unicodedata.bidirectional(letter) in "LRE RLE LRO RLO PDF LRI RLI FSI PDI".split()
        if letter in KEPT:
            assert shown(letter) == letter
        elif hidden or (kind == "Cf" and code in (0x61C, 0x200E, 0x200F, 0xFEFF)):
            assert shown(letter).isascii() and shown(letter).isprintable(), hex(code)
        elif kind != "Cf":
            assert shown(letter) == letter, hex(code)


@pytest.mark.parametrize(
    "text",
    [
        "ein großes Quadrat",
        "می‌خواهم",
        "مربع أحمر",
        "שָׁלוֹם",
        "赤い四角",
        "👩‍👩‍👧 ❤️",
        "ភាសា​ខ្មែរ",
        "a\tb\nc",
        "\\x1b",
    ],
)
def test_texts_of_every_language_are_shown_as_they_are(text):
    assert shown(text) == text


def test_hidden_characters_are_escaped_as_in_python():
    assert shown("\x1b]0;owned\x07 \u202egnp.exe \x9b31m \udcff \U000e0041\r\n") == (
        "\\x1b]0;owned\\x07 \\u202egnp.exe \\x9b31m \\udcff \\U000e0041\\r\n"
    )
    assert in_line("a\tb\nc") == "a\\tb\\nc"


def test_a_cell_of_a_table_is_one_line_without_controls():
    rows = [("\x1b[2J", "1\n2"), ("b", "\u202e3")]
    assert table(("a\x07", "b"), rows).count("\n") == 3 and "\\x1b[2J" in table(("a\x07", "b"), rows)
    for text in (table(("a\x07", "b"), rows), markdown(("a\x07", "b"), rows)):
        assert not set("\x1b\x07\u202e") & set(text)


def test_the_sentence_of_an_error_and_a_log_line_are_escaped():
    assert str(WeightError("file \x1b[2J\nx")) == "file \\x1b[2J\\nx"  # One line, whatever the name contains.
    record = logging.LogRecord("lit_jax.hf", logging.WARNING, "", 0, "%s is odd", ("a\n\x1bWARNING b",), None)
    assert Formatter("%(levelname)s %(message)s").format(record) == "WARNING a\\n\\x1bWARNING b is odd"
    assert record.args == ("a\n\x1bWARNING b",)  # Other handlers see it as it was.


def test_a_letter_that_a_stream_cannot_encode_is_escaped():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    say("赤い \x1b", stream=stream)
    assert raw.getvalue() == b"\\u8d64\\u3044 \\x1b\n"


def test_a_program_that_sets_up_no_logging_shows_our_warnings_escaped_and_once():
    code = "import logging, lit_jax; logging.getLogger('lit_jax.hf').warning('%s is odd', 'a\\x1b[2J')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "a\\x1b[2J is odd\n"
