"""A configuration that is right, for a test to break. Imports nothing of the server: e2e tests use it too."""

import datetime
import hashlib
import json
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import trustme
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from metric_learn_client import __version__ as CLIENT_VERSION
from metric_learn_client.contract import PREPROCESSING_ID

REPOSITORY = Path(__file__).parents[4]


class Scene:
    """The version's files are small: nothing loads them. `with` it: what a case holds (a port) is given back then. Its
    folder's path is short, as unix sockets in it need."""

    def __init__(self, monkeypatch):
        self.held = ExitStack()
        self.folder = folder = Path(self.held.enter_context(tempfile.TemporaryDirectory(prefix="scene-")))
        self.monkeypatch = monkeypatch
        self.config = {
            "model": {"directory": str(folder / "versions")},
            "server": {
                "address": f"127.0.0.1:{free_port()}",
                "http_address": f"127.0.0.1:{free_port()}",
                "api_address": f"127.0.0.1:{free_port()}",
                "run_dir": str(folder / "run"),
            },
        }
        self.environment = {}
        self.flags = []
        self.text = None
        self.version(1)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.held.close()

    def version(self, number, **changes):
        place = self.folder / "versions" / str(number)
        place.mkdir(parents=True)
        golden = np.zeros(2048, np.float32)
        golden[0] = 1
        np.save(place / "golden.npy", golden)
        (place / "golden.jpg").write_bytes(b"a picture")
        (place / "b1.mindir").write_bytes(b"a network")
        manifest = {
            "schema_version": 1,
            "model": "metric_learn",
            "version": int(number),
            "weights": "stand-in",
            "fingerprint": "f" * 64,
            "preprocessing": PREPROCESSING_ID,
            "embedding_dim": 2048,
            "mindir": [{"file": "b1.mindir", "batch_size": 1, "sha256": digest(place / "b1.mindir")}],
            "golden": {
                "image": {"file": "golden.jpg", "sha256": digest(place / "golden.jpg")},
                "embedding": {"file": "golden.npy", "sha256": digest(place / "golden.npy")},
            },
        }
        manifest.update(changes)
        (place / "manifest.json").write_text(json.dumps(manifest))
        return place

    def set(self, section, **keys):
        self.config.setdefault(section, {}).update(keys)

    def file(self, name, content="", mode=0o600):
        path = self.folder / name
        path.write_text(content)
        path.chmod(mode)
        return str(path)

    def answering(self, **answers):
        """A program in the place of MindSpore Serving's Python, which says this of itself, and else what is right."""
        right = {"version": [3, 9, 18], "shared": True, "libraries": "/usr/lib", "serving": "2.0.2", "missing": []}
        said = json.dumps({**right, "path": [], "client": CLIENT_VERSION, **answers})
        return self.file("python", f"#!/bin/sh\necho '{said}'\n", 0o700)

    def certificate(self, **arguments):
        pair = trustme.CA().issue_cert("localhost", **arguments)
        pair.cert_chain_pems[0].write_to_path(str(self.folder / "cert.pem"))
        self.file("key.pem", pair.private_key_pem.bytes().decode())
        certificate, key = str(self.folder / "cert.pem"), str(self.folder / "key.pem")
        self.set("security", tls_certificate=certificate, tls_private_key=key)
        return certificate, key

    def listen(self, where):
        host, _, port = where.rpartition(":")
        held = self.held.enter_context(socket.socket())
        held.bind((host, int(port)))
        held.listen()

    def write(self):
        """The configuration's file."""
        path = self.folder / "server.yaml"
        if self.text != "absent":
            path.write_text(yaml.safe_dump(self.config) if self.text is None else self.text)
        return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def authority(first, last):
    """A CA of its own, valid between two days, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"CA of {first}")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.fromisoformat(first))
        .not_valid_after(datetime.datetime.fromisoformat(last))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
