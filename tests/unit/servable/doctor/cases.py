"""What can be broken, the exit code, and words of the line that says so: for `--check` and for the start."""

import datetime
import json
import os
import resource
import sys
from pathlib import Path

import numpy as np
import trustme
from cryptography.hazmat.primitives import serialization

from servable.config import ConfigError, load_config
from servable.config.problem import exit_code
from servable.doctor import examine
from tests.unit.servable.doctor.scene import authority

UTC = datetime.timezone.utc


def load(scene):
    """As the server does. Raises ConfigError."""
    return load_config(scene.write(), scene.flags, scene.environment)


def check(scene):
    """(exit code, lines) of `--check`."""
    try:
        found = examine(load(scene))
    except ConfigError as error:
        return 2, str(error).splitlines()
    return exit_code(found.problems), [str(problem) for problem in found.problems]


CASES = {}


def case(code, *words):
    """The decorated function breaks the scene; every word must be in the one line that says so."""

    def add(function):
        CASES[function.__name__.lstrip("_")] = (function, code, words)
        return function

    return add


# Configuration file


@case(2, "server.yaml", "No such file", "configs/cpu.yaml")
def _no_file(scene):
    scene.text = "absent"


@case(2, "server.yaml", "not YAML", "line 1")
def _not_yaml(scene):
    scene.text = "model: ["


@case(2, "server.yaml", "version stands twice")
def _a_key_twice(scene):
    scene.text = "model: {version: 1, version: 2}"


@case(2, "server.yaml", "must hold sections")
def _a_list(scene):
    scene.text = "- model"


@case(2, "server.yaml", "unknown key sever", "did you mean server?")
def _unknown_section(scene):
    scene.config["sever"] = {}


@case(2, "server.yaml", "unknown key limits.max_image_mb", "max_image_bytes")
def _unknown_key(scene):
    scene.set("limits", max_image_mb=3)


@case(2, "server.yaml", "backend.workers = 'two'", "integer")
def _wrong_type(scene):
    scene.set("backend", workers="two")


@case(2, "server.yaml", "backend.workers = 0", "greater than or equal to 1")
def _out_of_range(scene):
    scene.set("backend", workers=0)


@case(2, "environment METRIC_LEARN_SERVER__DRAIN_S", "server.drain_s = 'soon'", "number")
def _bad_variable(scene):
    scene.environment["METRIC_LEARN_SERVER__DRAIN_S"] = "soon"


@case(2, "--set log.format", "log.format = 'xml'", "'text' or 'json'")
def _bad_flag(scene):
    scene.flags = ["log.format=xml"]


@case(2, "--set workers=2", "section.key=value")
def _a_flag_without_a_section(scene):
    scene.flags = ["workers=2"]


# Keys that contradict each other


@case(2, "server.address = 0.0.0.0:5500", "plain text", "security.tls_certificate", "security.allow_insecure")
def _plain_text_for_everybody(scene):
    scene.set("server", address="0.0.0.0:5500")


@case(2, "server.http_address", "is server.address too", "choose another port")
def _one_port_for_both(scene):
    scene.set("server", http_address=scene.config["server"]["address"])


@case(2, "security.tls_certificate", "has no key", "security.tls_private_key")
def _certificate_without_key(scene):
    certificate, _ = scene.certificate()
    scene.config["security"] = {"tls_certificate": certificate}


@case(2, "security.tls_client_ca", "server's own certificate")
def _client_ca_without_certificate(scene):
    scene.set("security", tls_client_ca=scene.file("ca.pem", trustme.CA().cert_pem.bytes().decode()))


@case(2, "limits.max_image_bytes", "is above limits.max_request_bytes", "lower it or raise")
def _image_above_request(scene):
    scene.set("limits", max_image_bytes=2000, max_request_bytes=1000)


@case(2, "limits.max_instances", "is above limits.max_in_flight_instances")
def _call_above_all_calls(scene):
    scene.set("limits", max_instances=2000)


@case(2, "deadlines.default_s", "is above deadlines.max_s")
def _default_above_the_most(scene):
    scene.set("deadlines", default_s=200)


@case(2, "backend.threads", "more than this host's", "lower one of them")
def _more_threads_than_cores(scene):
    scene.set("backend", threads=1 + (os.cpu_count() or 1))


@case(2, "backend.workers = ", "more than this host's", "lower it")
def _more_workers_than_cores(scene):
    scene.set("backend", workers=1 + len(os.sched_getaffinity(0)))


@case(2, "model.version = 1", "is not among model.versions = [2]")
def _default_not_served(scene):
    scene.version(2)
    scene.set("model", version=1, versions=[2])


@case(2, "backend.batch_sizes = [1, 1]", "each size once")
def _a_batch_size_twice(scene):
    scene.set("backend", batch_sizes=[1, 1])


@case(2, "backend.batch_sizes = [1, 32]", "versions/1 has [1]", "choose among them")
def _a_batch_size_that_was_not_exported(scene):
    scene.set("backend", batch_sizes=[1, 32])


@case(2, "backend.device_ids = [0, 1]", "a CPU has no devices")
def _devices_on_cpu(scene):
    scene.set("backend", device_ids=[0, 1])


# The run directory


@case(2, "server.run_dir", "spaces", "choose a path without them")
def _space_in_the_path(scene):
    scene.set("server", run_dir=str(scene.folder / "run dir"))


@case(2, "server.run_dir", "too long for the unix sockets", "choose a shorter one")
def _path_too_long(scene):
    scene.set("server", run_dir=str(scene.folder / ("x" * 90)))


@case(2, "server.run_dir", "relative", "absolute path")
def _relative_path(scene):
    scene.set("server", run_dir="run")


@case(2, "server.run_dir", "is not a directory")
def _run_dir_is_a_file(scene):
    scene.set("server", run_dir=scene.file("run"))


@case(2, "server.run_dir", "belongs to user 12345", "choose another")
def _run_dir_of_somebody_else(scene):
    (scene.folder / "run").mkdir()
    os.chown(scene.folder / "run", 12345, 12345)


@case(2, "server.run_dir", "has mode 0755, not 0700", "chmod 700")
def _run_dir_that_others_may_enter(scene):
    (scene.folder / "run").mkdir()
    (scene.folder / "run").chmod(0o755)


@case(2, "server.run_dir", "is a symbolic link", "give the directory itself")
def _run_dir_is_a_link(scene):
    (scene.folder / "elsewhere").mkdir(0o700)
    (scene.folder / "run").symlink_to(scene.folder / "elsewhere")


@case(2, "server.run_dir", "is a symbolic link", "give the directory itself")
def _run_dir_is_a_link_to_nothing(scene):
    (scene.folder / "run").symlink_to(scene.folder / "elsewhere")


@case(2, "server.run_dir", "is not a directory")
def _run_dir_below_a_file(scene):
    scene.set("server", run_dir=scene.file("file") + "/run")


@case(2, "server.run_dir", "symbolic link of another user (12345)")
def _run_dir_is_a_link_of_somebody_else(scene):
    (scene.folder / "elsewhere").mkdir()
    (scene.folder / "run").symlink_to(scene.folder / "elsewhere")
    os.chown(scene.folder / "run", 12345, 12345, follow_symlinks=False)


# Addresses


@case(4, "server.address", "already in use", "choose another port")
def _port_in_use(scene):
    scene.listen(scene.config["server"]["address"])


@case(4, "server.http_address", "already in use", "choose another port")
def _http_port_in_use(scene):
    scene.listen(scene.config["server"]["http_address"])


@case(2, "server.http_address", "Cannot assign", "of this host")
def _address_of_another_host(scene):
    scene.set("server", http_address="192.0.2.1:5501")


@case(2, "server.http_address", "no.such.host.invalid is no address")
def _unknown_host(scene):
    scene.set("server", http_address="no.such.host.invalid:5501")


@case(2, "server.address = '127.0.0.1:70000'", "1 to 65535")
def _no_such_port(scene):
    scene.set("server", address="127.0.0.1:70000")


@case(2, "server.address", "is not a directory", "create it")
def _unix_socket_nowhere(scene):
    scene.set("server", address="unix:/nowhere/metric-learn.sock")


# Certificates and tokens


@case(2, "security.tls_certificate", "No such file", "give a file")
def _certificate_missing(scene):
    scene.certificate()
    scene.set("security", tls_certificate="/nowhere/cert.pem")


@case(2, "security.tls_certificate", "holds no PEM certificate", "leaf first")
def _certificate_damaged(scene):
    certificate, _ = scene.certificate()
    Path(certificate).write_text("nonsense")


@case(2, "security.tls_certificate", "expired at 2020-01-01", "renew it")
def _certificate_expired(scene):
    scene.certificate(
        not_before=datetime.datetime(2019, 1, 1, tzinfo=UTC),
        not_after=datetime.datetime(2020, 1, 1, tzinfo=UTC),
    )


@case(2, "security.tls_private_key", "is not the key of", "issued together")
def _key_of_another_certificate(scene):
    _, key = scene.certificate()
    Path(key).write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())


@case(2, "security.tls_private_key", "everybody on this host can read it", "chmod 640")
def _key_open_to_everybody(scene):
    _, key = scene.certificate()
    Path(key).chmod(0o644)


@case(2, "security.tls_client_ca", "holds no PEM certificate")
def _client_ca_empty(scene):
    scene.certificate()
    scene.set("security", tls_client_ca=scene.file("ca.pem"))


@case(2, "security.tokens_file", "holds no token", "one token a line")
def _no_token(scene):
    scene.set("security", tokens_file=scene.file("tokens", "# none yet\n"))


@case(2, "security.tokens_file", "line 2 is not a token of at least 16", "openssl rand")
def _short_token(scene):
    scene.set("security", tokens_file=scene.file("tokens", "a-token-that-is-long-enough\nshort\n"))


@case(2, "security.tls_private_key", "is encrypted", "without a passphrase")
def _key_encrypted(scene):
    _, key = scene.certificate()
    private = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"a passphrase")
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    Path(key).write_bytes(pem)


@case(2, "security.tls_client_ca", "no CA in it is valid today", "give the current one")
def _every_client_ca_expired(scene):
    scene.certificate()
    scene.set("security", tls_client_ca=scene.file("ca.pem", authority("2019-01-01", "2020-01-01") * 2))


@case(2, "security.tokens_file", "everybody on this host can read it", "chmod 640")
def _tokens_open_to_everybody(scene):
    scene.set("security", tokens_file=scene.file("tokens", "a-token-that-is-long-enough\n", mode=0o644))


@case(2, "security.tokens_file", "line 1 is not a token", "printable ASCII")
def _a_vertical_tab_in_a_token(scene):
    scene.set("security", tokens_file=scene.file("tokens", "a-token-that-is-\vlong-enough-twice\n"))


@case(2, "security.tokens_file", "line 2 is not a token", "(nor are 2 more lines)")
def _several_lines_that_are_no_tokens(scene):
    scene.set("security", tokens_file=scene.file("tokens", "# three\nshort\n\nshort\nshort\n"))


# Tracing


@case(2, "tracing.otlp_endpoint = http://[::1:4317", "must be http:// or https://", "4317")
def _a_collector_that_is_no_url(scene):
    scene.set("tracing", enabled=True, otlp_endpoint="http://[::1:4317")


# Exported versions


@case(2, "model.directory", "no such directory", "make export")
def _no_directory(scene):
    scene.set("model", directory="/nowhere/versions")


@case(2, "model.version = 7", "version 7 is not exported", "there: 1")
def _version_not_there(scene):
    scene.set("model", version=7)


@case(2, "01 is not a version's name", "without leading zeros")
def _leading_zero(scene):
    (scene.folder / "versions" / "1").rename(scene.folder / "versions" / "01")


@case(2, "model.version = 2", "holds no manifest.json", "did not finish")
def _unfinished_export(scene):
    (scene.folder / "versions" / "2").mkdir()
    scene.set("model", version=2)


@case(2, "manifest.json", "not JSON", "export version 1 again")
def _manifest_damaged(scene):
    (scene.folder / "versions" / "1" / "manifest.json").write_text("{")


@case(2, "manifest.json", "lacks 'golden'", "export version 1 again")
def _manifest_without_golden_image(scene):
    path = scene.folder / "versions" / "1" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["golden"]
    path.write_text(json.dumps(manifest))


@case(2, "b1.mindir", "No such file", "export version 1 again")
def _mindir_missing(scene):
    (scene.folder / "versions" / "1" / "b1.mindir").unlink()


@case(2, "b1.mindir", "damaged", "sha256", "export version 1 again")
def _mindir_damaged(scene):
    (scene.folder / "versions" / "1" / "b1.mindir").write_bytes(b"another")


@case(2, "golden.npy", "damaged", "export version 1 again")
def _golden_embedding_damaged(scene):
    np.save(scene.folder / "versions" / "1" / "golden.npy", np.ones(2048, np.float32))


@case(2, "manifest.json", "preprocessing = 'rgb'", "export version 2 again")
def _other_preprocessing(scene):
    scene.version(2, preprocessing="rgb")


@case(2, "manifest.json", "version = 1", "takes 3")
def _a_copied_version(scene):
    (scene.folder / "versions" / "1").rename(scene.folder / "versions" / "3")


# Host and environment


@case(2, "server.yaml", "backend.engine_python = ", "/python3.9", "not a program that can be run", "make engine-env")
def _a_configured_engine_that_is_not_there(scene):
    scene.set("backend", engine_python=str(scene.folder / "python3.9"))


@case(2, "backend.engine_python = ", "not a program that can be run")
def _an_engine_that_is_a_folder(scene):
    scene.set("backend", engine_python=str(scene.folder))


@case(4, "/bin/python", "is not there", "MindSpore Serving needs it", "make engine-env")
def _no_engine(scene):
    scene.monkeypatch.setattr(sys, "prefix", str(scene.folder / "server"))


@case(4, "needs 3.9, from 3.9.2 on", "make engine-env", "PYTHON39")
def _an_engine_of_another_python(scene):
    scene.set("backend", engine_python=scene.answering(version=[3, 12, 1]))


@case(4, "is 3.9.1, and MindSpore Serving 2.0.2 needs 3.9, from 3.9.2 on")
def _an_engine_of_an_early_3_9(scene):
    scene.set("backend", engine_python=scene.answering(version=[3, 9, 1]))


@case(4, "static build without libpython3.9.so.1.0", "--enable-shared", "PYTHON39")
def _an_engine_without_its_library(scene):
    scene.set("backend", engine_python=scene.answering(shared=False, libraries=str(scene.folder)))


@case(4, "mindspore-serving is not installed", "make engine-env")
def _an_engine_without_mindspore_serving(scene):
    scene.set("backend", engine_python=scene.answering(serving=None))


@case(4, "numpy, cv2 is not installed", "make engine-env")
def _an_engine_without_its_packages(scene):
    scene.set("backend", engine_python=scene.answering(missing=["numpy", "cv2"]))


@case(4, "holds metric_learn_client 0.0.1", "must agree", "make engine-env server-env")
def _an_engine_with_another_client_package(scene):
    scene.set("backend", engine_python=scene.answering(client="0.0.1"))


@case(4, "cannot be run", "Exec format error", "make engine-env")
def _an_engine_for_another_machine(scene):
    scene.set("backend", engine_python=scene.file("python", "no program", 0o700))


@case(4, "cannot be run", "libpython3.9.so.1.0: cannot open", "make engine-env")
def _an_engine_that_ends_at_once(scene):
    script = "#!/bin/sh\necho 'python: libpython3.9.so.1.0: cannot open shared object file' >&2; exit 127\n"
    scene.set("backend", engine_python=scene.file("python", script, 0o700))


@case(4, "splits its command at spaces", "move the checkout")
def _an_engine_with_a_space_in_its_path(scene):
    (scene.folder / "my python").mkdir()
    scene.set("backend", engine_python=scene.file("my python/python", "#!/bin/sh\n", 0o700))


@case(4, "shadows the servable metric_learn", "metric-learn", "uninstall it")
def _a_package_of_the_servables_name(scene):
    package = scene.folder / "site" / "metric_learn"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    scene.monkeypatch.setenv("PYTHONPATH", str(package.parent))


@case(4, ".venv/engine/bin/python", "mindspore-serving 1.9.0", "made for 2.0.2", "make engine-env")
def _another_mindspore_serving(scene):
    info = scene.folder / "site" / "mindspore_serving-1.9.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mindspore-serving\nVersion: 1.9.0\n")
    scene.monkeypatch.setenv("PYTHONPATH", str(info.parent))


@case(4, "METRIC_LEARN_LITE_DIR", "libmindspore-lite.so is not there", "make engine-env")
def _no_lite_runtime(scene):
    scene.monkeypatch.setenv("METRIC_LEARN_LITE_DIR", str(scene.folder))


@case(4, "ulimit -n = 100", "LimitNOFILE")
def _few_descriptors(scene):
    scene.monkeypatch.setattr(resource, "getrlimit", lambda which: (100, 100))


@case(4, "backend.target = ascend310", "an Ascend device (/dev/davinci*)", "CANN", "configs/cpu.yaml")
def _no_device(scene):
    scene.set("backend", target="ascend310")
