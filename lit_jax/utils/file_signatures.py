"""What a file of the wrong kind is, judged by its signature: its first bytes."""

from lit_jax.utils.inside import POINTER

# The first bytes of a file (in lower case) -> what it is, and the remedy.
_SIGNATURES = (
    (POINTER, "it is the pointer of Git LFS; fetch the file itself with git lfs pull"),
    (b"<!doctype html", "it is a web page; fetch the file itself"),
    (b"<html", "it is a web page; fetch the file itself"),
    (b"<svg", "it is a drawing in SVG; write it as PNG"),
    (b"<?xml", "it is an XML document; fetch the file itself"),
    (b"\x1f\x8b", "it is compressed by gzip; unpack it"),
    (b"\x28\xb5\x2f\xfd", "it is compressed by zstd; unpack it"),
    (b"\xfd7zxz\0", "it is compressed by xz; unpack it"),
    (b"bzh", "it is compressed by bzip2; unpack it"),
    (b"pk\3\4", "it is a zip archive; unpack it"),
    (b"par1", "it is a parquet file; name it with parquet:"),
    (b"arrow1", "it is an Arrow file; name it with arrow:"),
)


def looks_like(head: bytes) -> str | None:
    """What a file of the wrong kind is, judged by its first bytes, and what to do about it; None if unknown."""
    for signature, sentence in _SIGNATURES:
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(signature):
            return sentence
    return None if head else "it is empty; fetch it again"
