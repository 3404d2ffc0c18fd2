"""What quickstart prints at the end."""

import shlex

import pytest

from lit_jax.commands.quickstart import following


@pytest.mark.parametrize(
    ("pictures", "commands", "query"),
    [
        ("emoji", ["classify", "evaluate", "embed", "search", "demo"], "a fast train"),
        ("photographs", ["classify", "evaluate", "embed", "search", "demo"], "a musical instrument"),
        ("data", ["evaluate", "embed", "search", "demo"], "a fast train"),
    ],
)
def test_the_printed_commands_suit_the_pictures(tmp_path, pictures, commands, query):
    (tmp_path / pictures / "test").mkdir(parents=True)
    (tmp_path / pictures / "test" / "a.png").touch()
    lines = [shlex.split(line) for line in following(tmp_path / "export", str(tmp_path), "folder:test")]
    assert [next(word for word in line if word in commands) for line in lines] == commands
    (search,) = (line for line in lines if "search" in line)
    assert search[-2:] == ["--query", query]
