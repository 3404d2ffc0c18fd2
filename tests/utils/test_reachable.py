"""Servers that do not answer are reported at once; what cannot be decided here is left to the libraries."""

import socket

import pytest

from lit_jax.utils.reachable import by_proxy, unreachable


@pytest.fixture
def hub(monkeypatch):
    """Sets the address of the Hub, with the Hub's library not in offline mode."""
    from huggingface_hub import constants

    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return lambda address: monkeypatch.setenv("HF_ENDPOINT", address)


@pytest.fixture
def port():
    """A port of this machine that something listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_server_that_answers_is_reachable(hub, port):
    hub(f"http://127.0.0.1:{port}")
    assert unreachable("hf://datasets/a/b") is None


def test_a_closed_port_and_an_unknown_host_are_named(hub, port, monkeypatch):
    hub("http://127.0.0.1:1")
    assert (
        unreachable("hf://datasets/a/b")
        == "127.0.0.1 cannot be reached from this machine (Connection refused)"
    )
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "nowhere.invalid")
    assert unreachable("gs://bucket/run").startswith("nowhere.invalid cannot be reached from this machine (")


def test_what_cannot_be_decided_here_is_left_to_the_libraries(hub, monkeypatch):
    hub("http://127.0.0.1:1")
    assert unreachable("s3://bucket") is unreachable("memory://x") is unreachable("a/folder") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert unreachable("hf://datasets/a/b") is None


def test_an_invalid_address_is_named(hub):
    hub("http://mirror:80a")
    assert unreachable("hf://datasets/a/b").startswith(
        "HF_ENDPOINT is 'http://mirror:80a', which is not an address ("
    )


def test_the_proxy_is_named(hub, monkeypatch):
    assert by_proxy() == ""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert by_proxy() == " (through the proxy in HTTPS_PROXY)"
