"""The address that the page listens on, the names that it answers to, and what it says about them."""

import pytest

from lit_jax.tools.demo.access import listen
from lit_jax.utils.errors import ConfigError
from tests.tools.demo.pages import asked, served


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "", "::"])
def test_an_address_of_all_networks_needs_the_name_of_the_host(host):
    with pytest.raises(
        ConfigError, match=r"^--host .* lets every machine .*; give --allow-host NAME"
    ) as raised:
        listen(host, 0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "names", "answers_to", "is_open"),
    [
        ("127.0.0.1", (), {"127.0.0.1", "localhost", "[::1]"}, False),
        ("localhost", ("box.local",), {"127.0.0.1", "localhost", "[::1]", "box.local"}, False),
        ("0.0.0.0", ("box", "10.0.0.7"), {"127.0.0.1", "localhost", "[::1]", "box", "10.0.0.7"}, True),
        ("0.0.0.0", ("fe80::1",), {"127.0.0.1", "localhost", "[::1]", "[fe80::1]"}, True),
    ],
)
def test_the_page_answers_to_the_names_that_its_user_knows(host, names, answers_to, is_open):
    listening, access, address = listen(host, 0, names)
    with listening:
        assert sorted(access.names) == sorted(answers_to) and access.is_open == is_open
        shown = address.removeprefix("http://").rpartition(":")[0]
        assert shown in answers_to and shown != "0.0.0.0"
        assert ("Nothing leaves" in access.meaning) == (not is_open)


@pytest.mark.parametrize(
    "name", ["*", "http://box", "box:8000", "", "a b", "*.local", "a/b", "ü.example", "[x]"]
)
def test_what_is_no_name_of_a_host_is_refused(name):
    with pytest.raises(ConfigError, match="is not the name of a host"):
        listen("127.0.0.1", 0, [name])


@pytest.mark.parametrize("host", ["no.such.host.invalid", "300.1.1.1", "203.0.113.1", "x" * 80, "ü" * 80])
def test_an_address_of_elsewhere_is_refused_in_one_sentence(host):
    with pytest.raises(ConfigError, match=r"cannot listen on.*give another --port"):
        listen(host, 0)


def test_a_port_that_is_taken_is_refused(address):
    with pytest.raises(ConfigError, match="cannot listen on"):
        listen("127.0.0.1", int(address.rpartition(":")[2].strip("/")))


def test_an_open_page_says_so_and_answers_only_to_its_names(model, caplog):
    port = served(model, host="0.0.0.0", allow_hosts=("box.local",)).rpartition(":")[2].strip("/")
    assert "Everyone who reaches this machine" in caplog.text and "box.local" in caplog.text
    home = f"http://127.0.0.1:{port}/"
    status, _, said = asked(home, Host=f"box.local:{port}")
    assert status == 200 and "Everyone who reaches this machine" in said and "Nothing leaves" not in said
    assert "<pre" not in said  # Commands for whoever started the page.
    assert [asked(home, Host=name)[0] for name in ("0.0.0.0", "evil.example", "")] == [400] * 3


def test_only_the_hub_shows_a_page_within_its_own_and_only_that_of_a_space(model, address):
    port = served(model, host="0.0.0.0", allow_hosts=("owner-name.hf.space",))
    port = port.rpartition(":")[2].strip("/")
    status, headers, said = asked(f"http://127.0.0.1:{port}/", Host="owner-name.hf.space")
    assert status == 200 and "sent to the server that it runs on" in said and "Nothing leaves" not in said
    policy = headers["Content-Security-Policy"]
    assert policy.endswith("frame-ancestors https://huggingface.co") and policy.count("frame-ancestors") == 1
    assert asked(address)[1]["Content-Security-Policy"].endswith("frame-ancestors 'none'")
