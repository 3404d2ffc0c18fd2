"""Hosts that decode fewer pictures than the chips train on bind, and the sentence of `plan` says what is wanted."""

import pytest

from lit_jax.commands import plan as command
from lit_jax.tools.plan.decoding import Host, decoding
from lit_jax.utils.errors import ConfigError


def test_the_slower_one_of_hosts_and_chips_binds():
    slow = decoding(30_000.0, 2, Host(50, 200))  # 20,000 pictures a second.
    assert slow["binds"] == "decoding" and slow["pairs_a_second"] == 20_000
    assert (
        slow["cores"] == 75 and slow["bytes_a_second"] == 10_000_000
    )  # Of a host, for a kB of each of 10,000.
    fast = decoding(30_000.0, 2, Host(100, 200))
    assert fast["binds"] == "chips" and fast["pairs_a_second"] == 30_000 and fast["cores"] == 75


@pytest.mark.parametrize(
    ("cores", "rate", "said"),
    [
        ("8", None, "belong together"),
        (None, "300", "belong together"),
        ("0", "300", "--host-cores is '0'; wanted a whole number, 1 or more"),
        ("8", "fast", "--decode-rate is 'fast'; wanted a whole number, 1 or more"),
        ("-8", "300", "--host-cores is '-8'"),
    ],
)
def test_a_host_that_is_not_described_is_refused(cores, rate, said):
    with pytest.raises(ConfigError, match=said):
        command._host(cores, rate)


def test_the_sentence_has_the_numbers_of_a_host():
    costs = {"hosts": 2, "decoding": decoding(30_000.0, 2, Host(50, 200))}
    assert command._decoding(costs) == (
        "2 hosts decode 20,000 pictures/s: decoding binds, at 20,000 pairs/s; a host needs 75 cores, "
        "and 10.0 MB/s for each kB of a picture"
    )


def test_a_run_that_decodes_nothing_is_told_so():
    assert "are cached" in command._decoding({"hosts": 2, "decoding": None})
