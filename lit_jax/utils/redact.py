"""Removes from published texts what identifies the machine."""

import re
import socket

from lit_jax.utils.errors import ConfigError

_LOCAL = re.compile(
    r"""
    (?P<url>    \b[a-z][a-z0-9+]*://REST)
  | (?P<account>(?<![\w./-])[\w.+-]+@[A-Za-z][\w.-]*(?::REST)?)        # user@host, user@host:path
  | (?P<path>   (?:\\\\|(?<!\w)[A-Za-z]:[\\/])REST                     # \\host\share, C:\folder
              | (?<![\w.~/<\\*+?)\]}])(?:~(?:[A-Za-z][\w.-]*)?|\.{1,2})?/[\w.~]REST)  # /folder, ~/folder; no regex
    """.replace("REST", r"""[^\s'"`<>|)\]]*"""),
    re.VERBOSE,
)


def public(text: str) -> str:
    """`text` without what identifies a machine: only the last component of local paths and bucket addresses is kept.

    Addresses of public web hosts are kept, without a password, and so are relative names such as "owner/name".
    Raises ConfigError for an account `user@host` and for the name of this machine.
    """

    def redacted(match: re.Match[str]) -> str:
        word = match[0]
        if match["path"]:
            return last_part(word)
        if match["account"]:
            if ":" not in word:
                raise ConfigError(f"the card would name {word!r}, an account on a machine; leave it out")
            return last_part(word.partition(":")[2])
        scheme, _, address = word.partition("://")
        host, slash, rest = address.partition("/")
        host = host.rpartition("@")[2]
        if scheme == "hf" or (scheme in ("http", "https") and _is_public(host)):
            return f"{scheme}://{host}{slash}{rest}"
        return last_part(rest)

    text = _LOCAL.sub(redacted, text)
    machine = socket.gethostname()
    # A machine name such as "data" is also an ordinary word, which identifies nothing.
    if re.search(r"[\d.-]", machine) and re.search(rf"(?<![\w.-]){re.escape(machine)}(?![\w-])", text):
        raise ConfigError(f"the card would name this machine, {machine!r}; leave it out")
    return text


def last_part(path: str) -> str:
    """The last component of a path with slashes or backslashes."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _is_public(host: str) -> bool:
    name = host.partition(":")[0].lower()
    numeric = re.fullmatch(r"[\d.]+", name) or name.startswith("[")
    return "." in name and not numeric and not name.endswith((".local", ".internal", ".lan", ".localdomain"))
