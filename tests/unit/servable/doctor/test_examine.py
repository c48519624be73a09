"""What `--check` says of broken configurations and hosts: one line each, with place, key and remedy."""

import os
from pathlib import Path

import pytest
import trustme

from servable.command import NotReadyError, _locked
from servable.doctor import examine
from tests.unit.servable.doctor.cases import CASES, check, load
from tests.unit.servable.doctor.scene import Scene, authority


@pytest.fixture
def scene(monkeypatch):
    with Scene(monkeypatch) as scene:
        yield scene


def test_a_right_configuration_has_no_problem_and_nothing_is_written(scene):
    assert check(scene) == (0, [])
    assert not (scene.folder / "run").exists()


@pytest.mark.parametrize("name", CASES)
def test_it_names_the_problem_in_one_line(scene, name):
    function, code, words = CASES[name]
    if name.endswith("of_somebody_else") and os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    if name == "no_device" and any(Path("/dev").glob("davinci[0-9]*")):
        pytest.skip("this host has an Ascend device")
    function(scene)
    found, lines = check(scene)
    assert found == code, lines
    (line,) = lines
    assert all(word in line for word in words), line


def test_several_problems_are_several_lines(scene):
    scene.set("server", run_dir="run")
    scene.set("deadlines", default_s=200)
    scene.set("model", version=7)
    code, lines = check(scene)
    assert (code, len(lines)) == (2, 3), lines


@pytest.mark.parametrize("order", [1, -1], ids=["expired last", "expired first"])
def test_an_expired_ca_beside_the_new_one_is_a_warning(scene, order):
    scene.certificate()
    both = [trustme.CA().cert_pem.bytes().decode(), authority("2019-01-01", "2020-01-01")][::order]
    scene.set("security", tls_client_ca=scene.file("ca.pem", "".join(both)))
    found = examine(load(scene))
    assert not found.problems
    (warning,) = found.warnings
    assert "its CA CN=CA of 2019-01-01 expired at 2020-01-01 00:00 UTC" in warning


@pytest.mark.parametrize(
    "comment",
    ["# für die App", "# 给应用程序", b"# f\xfcr die App, in Latin-1", "\ufeff# saved by an editor that writes a BOM"],
    ids=["umlaut", "Chinese", "not UTF-8", "BOM"],
)
def test_a_comment_in_a_tokens_file_may_hold_any_bytes(scene, comment):
    path = Path(scene.file("tokens"))
    path.write_bytes((comment if isinstance(comment, bytes) else comment.encode()) + b"\n0123456789abcdef-first\n")
    scene.set("security", tokens_file=str(path))
    assert check(scene) == (0, [])


def test_a_run_directory_in_which_a_server_runs_is_told_like_a_port_in_use(scene):
    config = load(scene)
    with _locked(config):
        code, (line,) = check(scene)
        assert code == 4 and "server.run_dir = " in line and "another server runs in it" in line
        with pytest.raises(NotReadyError) as caught, _locked(config):
            pass
        assert str(caught.value) == line
    assert check(scene) == (0, [])  # the file of the lock stays
