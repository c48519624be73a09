"""Every form of an address, and who can reach it."""

import pytest

from servable.config.addresses import parse_address


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("127.0.0.1:5500", True),
        ("127.8.9.1:1", True),
        ("localhost:65535", True),
        ("[::1]:5500", True),
        ("unix:/run/a.sock", True),
        ("0.0.0.0:5500", False),
        ("[::]:5500", False),
        ("10.1.2.3:0", False),
        ("embedder.example:5500", False),
    ],
)
def test_an_address_knows_who_reaches_it(text, private):
    address = parse_address(text)
    assert text.endswith(address.path or str(address.port)) and address.host in text
    assert address.loopback is private


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "host:port"),
        ("5500", "host:port"),
        (":5500", "host:port"),
        ("a b:1", "host:port"),
        ("host:", "port"),
        ("host:-1", "port"),
        ("host:65536", "port"),
        ("host:٣", "port"),
        ("::1:5500", "brackets"),
        ("[::g]:5500", "IPv6"),
        ("unix:run/a.sock", "absolute"),
        ("unix:/" + "x" * 107, "107 bytes"),
    ],
)
def test_anything_else_says_what_is_allowed(text, words):
    with pytest.raises(ValueError, match=words):
        parse_address(text)
