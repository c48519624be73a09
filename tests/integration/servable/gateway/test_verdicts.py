"""`--check` and the start say the same of a configuration: one accepts what the other accepts, with the same words."""

import asyncio
import random
import socket

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from servable import command
from servable.command import NotReadyError
from servable.config import ConfigError, load_config
from servable.config.sections import Config
from servable.doctor import examine
from servable.gateway import Backends, Gateway, StartError
from tests.integration.servable.gateway.harness import config_of
from tests.unit.servable.doctor.cases import CASES
from tests.unit.servable.doctor.scene import Scene, authority, free_port

ADDRESSES = ("address", "http_address", "api_address")
OF_THE_GATEWAY = (*(f"server.{name}" for name in ADDRESSES), "limits.", "deadlines.", "security.", "tracing.")


def checked(config):
    """What `--check` says about the gateway."""
    return [str(found) for found in examine(config).problems if found.key.startswith(OF_THE_GATEWAY)]


def started(config):
    """What the gateway says when it starts, bound and stopped again where it does."""

    async def start():
        gateway = Gateway(config, Backends(1), on_unhealthy=lambda served, reason: None)
        try:
            await gateway.start()
        except StartError as error:
            return [str(problem) for problem in error.problems]
        await gateway.stop()
        return []

    return asyncio.run(start())


@pytest.mark.parametrize("name", CASES)
def test_the_gateway_says_what_check_says_of_each_broken_configuration(monkeypatch, name):
    with Scene(monkeypatch) as scene:
        CASES[name][0](scene)
        try:
            config = load_config(scene.write(), scene.flags, scene.environment)
        except ConfigError:
            return  # read by both before anything else
        if config.backend.target == "cpu":  # on a host without devices nothing else is looked at
            assert started(config) == checked(config)


@pytest.mark.parametrize("name", CASES)
def test_the_server_refuses_each_broken_configuration_with_the_lines_of_check(monkeypatch, name):
    with Scene(monkeypatch) as scene:
        CASES[name][0](scene)
        path = scene.write()

        def said(function):
            with pytest.raises((ConfigError, NotReadyError)) as caught:
                function(load_config(path, scene.flags, scene.environment))
            return caught.type, str(caught.value)

        assert said(command.start) == said(command.check)
        assert not list(scene.folder.rglob("lock"))  # nothing was started


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name -> path of good and bad PEM files and files of tokens."""
    folder = tmp_path_factory.mktemp("files")
    authority_of_all = trustme.CA()
    leaf = authority_of_all.issue_cert("localhost")
    rsa = trustme.CA(key_type=trustme.KeyType.RSA).issue_cert("localhost", key_type=trustme.KeyType.RSA)
    key, chain = leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes()
    private = serialization.load_pem_private_key(key, None)
    encrypted = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    current, old = authority_of_all.cert_pem.bytes(), authority("2019-01-01", "2020-01-01").encode()
    later = authority("2190-01-01", "2200-01-01").encode()
    contents = {
        "certificate": chain,
        "chain": chain + current,
        "rsa certificate": rsa.cert_chain_pems[0].bytes(),
        "key": key,
        "rsa key": rsa.private_key_pem.bytes(),
        "encrypted key": encrypted,
        "key and certificate": key + chain,
        "cut key": key[: len(key) // 2],
        "ca": current,
        "ca twice": current * 2,
        "old ca": old,
        "old ca first": old + current,
        "old ca last": b"# renewed\n" + current + old,
        "later ca": later,
        "later ca too": later + current,
        "cut ca": current + current[:100],
        "empty": b"",
        "nonsense": bytes(range(256)),
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = folder / name
        paths[name].touch(mode=0o600)
        paths[name].write_bytes(content)
    paths["open key"] = folder / "open key"
    paths["open key"].write_bytes(key)
    paths["missing"] = folder / "missing"
    return paths


def generated(seed, folder, files):
    """Keys of the gateway, each good more often than not."""
    pick = random.Random(seed)

    def one(good, *bad):
        return pick.choice(good) if not bad or pick.random() < 0.93 else pick.choice(bad)

    (folder / "taken").touch()
    tokens = folder / "tokens"
    tokens.touch(mode=one([0o600, 0o640], 0o644))
    words = [
        b"0123456789abcdef",
        b"another-token-with-#-in-it",
        b"",
        b"# \xe7\xbb\x99",
        b"#\x0b",
        b"short",
        b"two words",
    ]
    words += [b"0123456789\x0babcdef", b"0123456789abcd\xc3\xa9f", b"0123456789abcdef\x85"]
    lines = [
        pick.choice(words[: one([4], 10)]) + pick.choice([b"", b" ", b"\t# new"]) for _ in range(pick.randrange(4))
    ]
    tokens.write_bytes(one([b""], b"\xef\xbb\xbf", b"\xff\xfe") + pick.choice([b"\n", b"\r\n"]).join(lines))
    pair = one([("certificate", "key"), ("chain", "key"), ("rsa certificate", "rsa key")], ("certificate", "rsa key"))
    bad = ["nonsense", "empty", "missing", "key and certificate", "cut key", "encrypted key", "open key", "ca", None]
    security = {
        "tls_certificate": one([pair[0]], *bad),
        "tls_private_key": one([pair[1]], *bad),
        "tls_client_ca": one(
            [None, "ca", "ca twice", "old ca first", "old ca last", "later ca too"], *files, "later ca"
        ),
    }
    if pick.random() < 0.4:
        security = {}
    keys = {name: str(files[which]) for name, which in security.items() if which is not None}
    if pick.random() < 0.6:
        keys["tokens_file"] = str(tokens)
    local = ["127.0.0.1:0", "localhost:0", f"unix:{folder}/grpc.sock"]
    wide = ["0.0.0.0:0", "127.9.9.9:0", "192.0.2.1:0", "unix:/nowhere/grpc.sock", f"unix:{folder}/taken", "127.0.0.1:1"]
    return {
        "server": {
            "address": one(local, *wide),
            "http_address": one(["127.0.0.1:0", "localhost:0", "0.0.0.0:0"], *wide[2:]),
            "api_address": one(["127.0.0.1:0", "localhost:0", f"unix:{folder}/api.sock", ""], *wide),
        },
        "security": {**keys, "allow_insecure": pick.random() < 0.3},
        "limits": {
            "max_image_bytes": one([1, 1000], 10_000_000),
            "max_request_bytes": one([2000, 1_000_000], 500),
            "max_in_flight_bytes": one([2_000_000, 2**40], 700),
            "max_instances": one([1, 8], 60_000),
        },
        "deadlines": {"default_s": one([0.5, 30], 3000), "max_s": one([60, 3600], 0.1)},
        "tracing": {
            "enabled": pick.random() < 0.2,
            "otlp_endpoint": pick.choice(["http://127.0.0.1:1", "127.0.0.1:1", "https://127.0.0.1:1"]),
        },
    }


def test_of_200_generated_configurations(tmp_path, files):
    accepted = 0
    for seed in range(200):
        folder = tmp_path / str(seed)
        folder.mkdir()
        config = Config(**generated(seed, folder, files))
        said = checked(config)
        assert started(config) == said, seed
        accepted += not said
    assert 50 <= accepted <= 150  # else the generator has become one-sided, and this test would prove little


@pytest.mark.parametrize("key", ADDRESSES)
@pytest.mark.parametrize(
    ("behind", "accepted"),
    [
        (["127.0.0.1", "2001:db8::1"], True),  # a container without IPv6 whose "localhost" has an IPv6 address too
        (["2001:db8::1", "127.0.0.1"], True),
        (["2001:db8::1"], False),
        (["127.0.0.1", "taken"], False),
    ],
    ids=["first only", "second only", "none", "one in use"],
)
def test_of_a_name_with_several_addresses(monkeypatch, key, behind, accepted):
    with socket.socket() as other:
        other.bind(("127.0.0.2", 0))
        other.listen()
        port = other.getsockname()[1]
        real = socket.getaddrinfo

        def getaddrinfo(host, *arguments, **options):
            if host != "localhost":
                return real(host, *arguments, **options)
            names = ["127.0.0.2" if name == "taken" else name for name in behind]
            return [entry for name in names for entry in real(name, *arguments, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        config = config_of(server={key: f"localhost:{port}"})
        said = checked(config)
        assert started(config) == said
        assert bool(said) is not accepted


@pytest.mark.parametrize(
    ("first", "second", "accepted"),
    [
        ("server.address = 0.0.0.0", "server.http_address = 127.0.0.1", False),
        ("server.address = 0.0.0.0", "server.api_address = 127.0.0.1", False),
        ("server.address = 127.0.0.1", "server.api_address = localhost", False),
        ("server.address = [::]", "server.api_address = 127.0.0.1", False),
        ("server.http_address = 0.0.0.0", "server.api_address = [::]", False),
        ("server.http_address = [::]", "server.api_address = [::1]", False),
        ("server.http_address = [::]", "server.api_address = 127.0.0.1", True),  # over HTTP it is IPv6 alone
        ("server.address = 0.0.0.0", "server.http_address = [::1]", True),
        ("server.address = 127.0.0.1", "server.http_address = 127.0.0.2", True),
    ],
)
def test_of_two_addresses_with_one_port(first, second, accepted):
    port = free_port()
    keys = dict(f"{each}:{port}".replace("server.", "").split(" = ") for each in (first, second))
    config = config_of(server=keys, security={"allow_insecure": True})
    said = checked(config)
    assert started(config) == said
    assert bool(said) is not accepted
    assert all("too; choose another port for one of them" in line for line in said)


def test_of_two_spellings_of_one_unix_socket(tmp_path):
    config = config_of(server={"address": f"unix:{tmp_path}/socket", "api_address": f"unix:{tmp_path}//socket"})
    (line,) = checked(config)
    assert started(config) == [line] and "is server.address too" in line
