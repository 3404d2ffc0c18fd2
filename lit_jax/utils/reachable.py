"""Whether the server behind a URL answers, checked before libraries retry for a minute."""

import os
import socket
import urllib.request
from urllib.parse import urlsplit

_SECONDS = 5
_SERVERS = {  # Scheme -> the variable that names another server, and the default server.
    "gs": ("STORAGE_EMULATOR_HOST", "https://storage.googleapis.com"),
    "gcs": ("STORAGE_EMULATOR_HOST", "https://storage.googleapis.com"),
    "hf": ("HF_ENDPOINT", "https://huggingface.co"),
}


def unreachable(url: str) -> str | None:
    """Why the server of `url` cannot be reached, in words; None if it can be, or if this cannot be checked.

    It cannot be checked for schemes other than gs and hf, behind a proxy, and if the Hub's library is set to offline.
    """
    scheme = url.partition("://")[0]
    if scheme not in _SERVERS or urllib.request.getproxies() or (scheme == "hf" and _is_offline()):
        return None
    variable, usual = _SERVERS[scheme]
    address = os.environ.get(variable) or usual
    server = urlsplit(address if "://" in address else f"http://{address}")
    try:
        port = server.port or (443 if server.scheme == "https" else 80)
    except ValueError as error:
        return f"{variable} is {address!r}, which is not an address ({error})"
    try:
        socket.create_connection((server.hostname, port), _SECONDS).close()
    except OSError as error:
        return f"{server.hostname} cannot be reached from this machine ({error.strerror or error})"
    return None


def by_proxy() -> str:
    """The proxy that requests go through, to be added to an error message; "" without one."""
    proxies = urllib.request.getproxies()
    variable = next((f"{scheme}_proxy" for scheme in ("https", "all", "http") if scheme in proxies), "")
    return f" (through the proxy in {variable.upper()})" if variable else ""


def _is_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE
