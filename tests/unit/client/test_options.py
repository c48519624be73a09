"""Options and endpoints: what is wrong is said with its value, before anything is sent."""

import inspect
import os
import pickle
import threading

import pytest

from metric_learn_client import AsyncEmbeddingClient, EmbeddingClient, TlsOptions
from metric_learn_client._client.core.pool import Pool
from metric_learn_client._client.core.targets import Target, expand, host_name_of, is_local, parse_endpoints
from metric_learn_client._client.token import TokenSource
from metric_learn_client.jobs import embed_dataset
from metric_learn_client.jobs.options import InputSpec, JobOptions, RunOptions
from metric_learn_client.option_fields import facts_of
from metric_learn_client.options import ClientOptions

BOTH = pytest.mark.parametrize("kind", [EmbeddingClient, AsyncEmbeddingClient])


@BOTH
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"deadline_s": 0}, "deadline_s=0"),
        ({"deadline_s": float("inf")}, "deadline_s=inf"),
        ({"deadline_s": 1e10}, "deadline_s=10000000000.0: must be a number above 0, at most 1,000,000"),
        ({"deadline_s": float("nan")}, "deadline_s=nan"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"max_in_flight": -1}, "max_in_flight=-1"),
        ({"retries": -1}, "retries=-1"),
        ({"resize": "bilinear"}, "resize='bilinear'"),
        ({"sandbox": True}, "needs resize="),
        ({"token": "two words"}, "the token holds"),
        ({"token": "x", "token_file": "y"}, "exclude"),
        ({"token": "x", "endpoints": "example.com:5500"}, "plain text"),
        ({"endpoints": ""}, "host:port"),
        ({"endpoints": []}, "no endpoint"),
        ({"endpoints": "localhost"}, "'localhost'"),
        ({"endpoints": "http://a:1"}, "without a scheme"),
        ({"endpoints": "a:0"}, "1 to 65535"),
        ({"endpoints": "a:1,b:99999"}, "'b:99999'"),
        ({"endpoints": "::1:5500"}, "v6"),
        ({"endpoints": "a b:1"}, "host is wrong"),
        ({"endpoints": [5500]}, "5500"),
    ],
)
def test_a_wrong_option_is_a_value_error_that_names_it(kind, options, says):
    with pytest.raises(ValueError, match=says) as caught:
        kind(**options)
    assert "two words" not in str(caught.value)


def test_a_wrong_tls_option_is_said_by_its_file(tmp_path):
    with pytest.raises(ValueError, match=r"no such file.*none.pem"):
        TlsOptions(ca_file=tmp_path / "none.pem")
    (tmp_path / "cert.pem").touch()
    with pytest.raises(ValueError, match="belong together"):
        TlsOptions(cert_file=tmp_path / "cert.pem")


@BOTH
def test_the_token_comes_from_the_argument_else_the_environment(kind, monkeypatch):
    monkeypatch.setenv("METRIC_LEARN_TOKEN", "from-environment")
    assert kind("127.0.0.1:1")._core.token.current() == "from-environment"
    assert kind("127.0.0.1:1", token="given")._core.token.current() == "given"
    with pytest.raises(ValueError, match="plain text"):
        kind("10.0.0.1:1")
    kind("10.0.0.1:1", allow_insecure_token=True)
    kind("10.0.0.1:1", tls=True)


def test_a_token_file_is_read_again_when_it_changes(tmp_path):
    path = tmp_path / "token"
    path.write_text("one\n")
    source = TokenSource(None, str(path))
    assert source.current() == source.current() == "one"
    path.write_text("another\n")
    assert source.current() == "another"
    for content in ("", "two words"):
        path.write_text(content)
        with pytest.raises(ValueError, match="one token"):
            source.current()
    path.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        source.current()


def test_a_token_comes_through_a_pipe_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(target=(tmp_path / "pipe").write_text, args=("secret\n",)).start()
    source = TokenSource(None, str(tmp_path / "pipe"))
    assert source.current() == source.current() == "secret"


def test_a_token_pipe_that_nobody_writes_to_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("metric_learn_client._client.token.PIPE_S", 0.2)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"nobody wrote to it within 0.2 s"):
        TokenSource(None, str(tmp_path / "pipe")).current()
    with open(tmp_path / "pipe", "w") as pipe:  # ends the thread that was left behind
        pipe.write("late")


def test_a_token_file_without_an_end_is_refused():
    with pytest.raises(ValueError, match=r"cannot be read|one token"):
        TokenSource(None, "/dev/zero").current()


@BOTH
def test_a_client_says_what_it_is_and_refuses_to_be_pickled(kind):
    client = kind("a:1,b:2,a:1", deadline_s=7)
    assert client.endpoints == ("a:1", "b:2") and repr(client) == f"{kind.__name__}('a:1,b:2', deadline_s=7)"
    with pytest.raises(TypeError, match="in each process"):
        pickle.dumps(client)


def test_endpoints_are_taken_as_users_write_them():
    assert parse_endpoints(" a:1 ,[::1]:2,unix:/run/x") == ("a:1", "[::1]:2", "unix:/run/x")
    assert parse_endpoints(["dns:///svc:1"]) == ("dns:///svc:1",)
    assert host_name_of("svc.example:5500") == ("svc.example", 5500)
    assert [host_name_of(each) for each in ("127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/x")] == [None] * 4
    local = ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/x"]
    local += [
        "dns:///localhost:1",
        "dns:127.0.0.1:1",
        "ipv4:127.0.0.1:1,127.0.0.2:1",
        "ipv6:[::1]:1",
        "unix-abstract:x",
    ]
    assert all(map(is_local, local))
    remote = ["10.0.0.1:1", "svc:1", "dns://8.8.8.8/localhost:1", "ipv4:127.0.0.1:1,10.0.0.1:1", "xds:///localhost:1"]
    assert not any(map(is_local, remote))


def test_a_name_with_several_addresses_is_several_targets():
    assert expand("svc:1", ["10.0.0.1"]) == (Target("svc:1", "svc:1"),)
    first, second = expand("svc:1", ["10.0.0.1", "fd00::1"])
    assert (first.address, first.authority, second.address) == ("10.0.0.1:1", "svc", "[fd00::1]:1")
    assert str(first) == "svc:1 (10.0.0.1:1)"


def test_names_are_looked_up_once_in_a_while_and_a_failed_look_up_changes_nothing():
    pool = Pool(["svc:1", "127.0.0.1:1"])
    assert pool.unresolved(0.0) == "svc:1" and pool.unresolved(29.0) is None
    pool.resolved("svc:1", ["10.0.0.1", "10.0.0.2"])
    kept = pool.targets[1]
    assert len(pool.targets) == 3
    pool.failed(kept, 0.0)
    assert pool.unresolved(30.0) == "svc:1"
    pool.resolved("svc:1", ())
    assert len(pool.targets) == 3
    pool.resolved("svc:1", ["10.0.0.2", "10.0.0.3"])
    assert not pool.has_other(0.1, [target for target in pool.targets if target != kept])
    pool.answered(Target("gone:1", "gone:1"), 1.0)
    pool.failed(Target("gone:1", "gone:1"), 1.0)
    pool.release(Target("gone:1", "gone:1"))


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (EmbeddingClient, ClientOptions),
        (embed_dataset, InputSpec),
        (embed_dataset, JobOptions),
        (embed_dataset, RunOptions),
    ],
)
def test_an_option_is_an_argument_in_python_with_the_same_default(function, kind):
    arguments = {name: each.default for name, each in inspect.signature(function).parameters.items()}
    options = {field.name: field.default for field, _ in facts_of(kind)}
    assert options == {name: arguments.get(name, "is no argument") for name in options}
