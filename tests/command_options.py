"""The options that the commands take, according to their parsers."""

import contextlib
import importlib
import io
import re
from functools import cache


@cache
def options(command):
    """The options of a command: as click declares them, or as the help of a config command lists them."""
    main = importlib.import_module(f"lit_jax.commands.{command}").main
    if hasattr(main, "params"):
        return frozenset(name for param in main.params for name in (*param.opts, *param.secondary_opts))
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main(["--help"])
    return frozenset(re.findall(r"--[\w-]+", text.getvalue()))


def accepted(command, option):
    """Whether `command` has `option`; --config.a.b is a field of the config."""
    return option == "--help" or option.partition(".")[0] in options(command)
