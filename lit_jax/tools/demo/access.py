"""Who reaches the page: the address that it listens on, and the host names that it answers to."""

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from lit_jax.utils.errors import ConfigError

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_SPACES = ".hf.space"  # The ending of the hosts of Spaces.
_HUB = "https://huggingface.co"  # The site that shows them within its own pages.
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)


@dataclass(frozen=True)
class Access:
    """The host names that the page answers to (`guards.OwnHostsOnly`), and whether other machines reach it."""

    names: tuple[str, ...] = _LOOPBACK
    is_open: bool = False

    @property
    def framed_by(self) -> tuple[str, ...]:
        """The sites that may show the page within their own."""
        return (_HUB,) if any(name.endswith(_SPACES) for name in self.names) else ()

    @property
    def meaning(self) -> str:
        """What that means for the person at the page, in one sentence."""
        if self.framed_by:
            return "What is given to this page is sent to the server that it runs on."
        if self.is_open:
            return "Everyone who reaches this machine can use this page, and what is sent to it is not encrypted."
        return "Nothing leaves this machine."


LOCAL = Access()


def listen(host: str, port: int, allow_hosts: Sequence[str] = ()) -> tuple[socket.socket, Access, str]:
    """A socket that listens, who reaches it, and the address of the page. Port 0 means any free one.

    An address that stands for all addresses of the machine says nothing about its names, so it needs `allow_hosts`.
    Raises ConfigError without them, and for an address, a port or a name that cannot be used.
    """
    names = tuple(map(_host_name, allow_hosts))
    try:
        family, _, _, _, found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        address = ipaddress.ip_address(str(found[0]).partition("%")[0])
        if address.is_unspecified and not names:
            raise ConfigError(
                f"--host {host or '(empty)'} lets every machine that reaches this one use the page, under any name; "
                "give --allow-host NAME with the name or the address under which they open it, for instance "
                f"--allow-host {socket.gethostname()}"
            )
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot listen on {host}:{port} ({reason}); give another --port, or 0 for any that is free"
        ) from error
    own = () if address.is_unspecified else (f"[{host}]" if ":" in host else host,)
    access = Access(tuple(dict.fromkeys((*_LOOPBACK, *own, *names))), is_open=not address.is_loopback)
    return listening, access, f"http://{(*own, *names)[0]}:{listening.getsockname()[1]}/"


def _host_name(text: str) -> str:
    """A host name as browsers write it: an IPv6 address has brackets. Raises ConfigError for anything else."""
    try:
        return f"[{ipaddress.IPv6Address(text.strip('[]'))}]"
    except ValueError:
        if _NAME.fullmatch(text):
            return text
    raise ConfigError(
        f"--allow-host {text!r} is not the name of a host; want one without scheme and port, such as "
        f"{socket.gethostname()} or 192.168.1.7"
    )
