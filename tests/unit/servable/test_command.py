"""The command line's own words."""

import pytest
import trustme

from servable.command import cli
from tests.unit.servable.doctor.scene import Scene, authority


@pytest.fixture
def scene(monkeypatch):
    with Scene(monkeypatch) as scene:
        yield scene


def test_check_tells_of_an_expired_ca_beside_the_new_one_and_accepts_it(scene, capsys):
    scene.certificate()
    both = trustme.CA().cert_pem.bytes().decode() + authority("2019-01-01", "2020-01-01")
    scene.set("security", tls_client_ca=scene.file("ca.pem", both))
    cli(["--config", str(scene.write()), "--check"], standalone_mode=False)
    out, err = capsys.readouterr()
    assert out.startswith("ok: version 1")
    assert err.startswith("warning: ") and "expired at 2020-01-01" in err and len(err.splitlines()) == 1
