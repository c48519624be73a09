"""The Dockerfiles: hadolint, and what an image must keep to."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

from servable.config import REPOSITORY
from servable.config.sections import Config

IMAGES = {"cpu": "cpu", "ascend": "ascend310"}  # Dockerfile -> backend.target
USER = "10001:10001"


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", " ", text)
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def stage(path: Path, name: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    inside = False
    for word, rest in instructions(path):
        if word == "FROM":
            inside = rest.endswith(f" AS {name}")
        elif inside:
            found.append((word, rest))
    return found


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def dockerfile(image: str, deploy: Path) -> Path:
    return deploy / "docker" / f"{image}.Dockerfile"


def test_hadolint_finds_nothing(dockerfile: Path, deploy: Path) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint, "hadolint is in configs/deploy/requirements.txt"
    done = subprocess.run(
        [hadolint, "--config", str(deploy / "docker" / "hadolint.yaml"), str(dockerfile)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_does_find_a_fault(tmp_path: Path, deploy: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:bookworm\nRUN sudo cd /tmp\nENTRYPOINT python\n")
    hadolint = str(Path(sys.executable).parent / "hadolint")
    done = subprocess.run([hadolint, "--config", str(deploy / "docker" / "hadolint.yaml"), str(bad)], timeout=30)
    assert done.returncode != 0


def test_the_image_runs_as_a_user_without_rights_in_exec_form(dockerfile: Path) -> None:
    runtime = dict(stage(dockerfile, "runtime"))  # the last of each instruction
    assert runtime["USER"] == USER
    assert runtime["STOPSIGNAL"] == "SIGTERM"
    assert "tini" in json.loads(runtime["ENTRYPOINT"])[0]  # JSON: no shell between the signal and the server
    assert json.loads(runtime["CMD"]) == ["--config", "/etc/metric-learn-serving/server.yaml"]


def test_the_health_check_asks_readiness_at_the_configured_port(
    image: str, dockerfile: Path, deploy: Path, configuration: Callable[..., Config]
) -> None:
    config = configuration(deploy / f"server-{IMAGES[image]}.yaml")
    port = config.server.http_address.rpartition(":")[2]
    assert f"http://127.0.0.1:{port}/readyz" in dict(stage(dockerfile, "runtime"))["HEALTHCHECK"]
    public = {each.rpartition(":")[2] for each in (config.server.address, config.server.api_address)}
    assert {port, *public} == set(dict(stage(dockerfile, "runtime"))["EXPOSE"].split())


def test_the_image_holds_its_targets_configuration(image: str, dockerfile: Path) -> None:
    source = f"configs/deploy/server-{IMAGES[image]}.yaml"
    assert ("COPY", f"{source} /etc/metric-learn-serving/server.yaml") in stage(dockerfile, "runtime")


@pytest.mark.parametrize(("name", "folder"), [("engine", "servable/engine"), ("build", "servable")])
def test_both_images_build_each_environment_alike(deploy: Path, name: str, folder: str) -> None:
    built = [stage(deploy / "docker" / f"{image}.Dockerfile", name) for image in IMAGES]
    lock = f"{folder}/requirements.txt"
    application = [steps[steps.index(("COPY", f"{lock} {lock}")) :] for steps in built]
    assert application[0] == application[1]
    assert any("--require-hashes" in rest for _, rest in application[0])


def test_mindspore_servings_environment_is_where_the_server_looks_for_it(dockerfile: Path) -> None:
    made = {
        rest.rpartition(" ")[2]
        for name in ("engine", "build")
        for word, rest in stage(dockerfile, name)
        if "venv" in rest
    }
    assert {"/opt/venv/engine", "/opt/venv/server"} <= made  # side by side (servable/runtime/engine_python.py)


def test_everything_copied_from_the_context_is_there_and_not_ignored(dockerfile: Path) -> None:
    allowed = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in instructions(dockerfile):
        if word != "COPY" or rest.startswith("--from"):
            continue
        *sources, _target = [part for part in rest.split() if not part.startswith("--")]
        for source in sources:
            assert list(REPOSITORY.glob(source)), f"COPY {source}: is not in the repository"
            shipped = any(
                Path(source).match(entry)
                or entry.startswith(f"{source}/")
                or source == entry
                or source.startswith(f"{entry}/")
                for entry in allowed
            )
            assert shipped, f"COPY {source}: .dockerignore keeps it out"


def test_no_checkpoint_model_or_environment_gets_into_the_context() -> None:
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"  # an allow list
    after = lines[lines.index("!servable") :]
    assert "servable/metric_learn/[0-9]*" in after and "**/*.mindir" in after and "**/*.ckpt" in after
