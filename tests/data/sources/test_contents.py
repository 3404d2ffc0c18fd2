"""All captions of a source, and the warning of pictures that several records have."""

from lit_jax.data.sources.contents import captions_of
from lit_jax.data.sources.registry import open_source
from tests.data.conftest import RECORDS, png, row


def test_copies_of_a_picture_are_counted_with_the_first_one(write_folder, caplog):
    folder = write_folder()
    (folder / "05.png").write_bytes(png(3))
    (folder / "09.png").write_bytes(png(3))
    source = open_source(f"folder:{folder}")
    texts, owner = captions_of(source, warn_of_copies=True)
    assert texts == [text for i in range(RECORDS) for text in row(i)["captions"]] and owner[-1] == RECORDS - 1
    (message,) = caplog.messages
    assert message.startswith(
        f"{source.spec}: 2 of 40 records have the picture of an earlier one (first, 'r5' has that of 'r3')"
    )
    captions_of(source)
    assert len(caplog.messages) == 1
