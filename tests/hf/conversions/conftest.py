"""Fixtures of the tests of other projects' formats."""

import pytest

from tests import tiny


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The folder of a small text tower."""
    folder = tmp_path_factory.mktemp("text")
    tiny.write_tower(folder, tiny.BERT)
    return folder
