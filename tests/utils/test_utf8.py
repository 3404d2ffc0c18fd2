"""Text is read as UTF-8; another encoding is refused by name, with the remedy."""

import pytest

from lit_jax.utils import utf8


@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_not_part_of_the_text(mark):
    assert utf8.decode("chèvre\ufeff".encode(mark)) == "chèvre\ufeff"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a".encode("utf-16"), "x is UTF-16; save it as UTF-8"),
        (b"\xfe\xff\0a", "x is UTF-16; save it as UTF-8"),
        ("chèvre".encode("latin-1"), "x is invalid UTF-8 at byte 2; save it as UTF-8"),
    ],
)
def test_another_encoding_is_refused_with_the_remedy(text, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        utf8.decode(text, "x")
