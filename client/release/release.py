"""`make release VERSION=x.y.z`: what is committed -> changelog section, sdist, wheel, SBOMs, digests and a tag.

python client/release/release.py VERSION [--dry-run] [--output FOLDER]    default folder: dist/VERSION
python client/release/release.py --dry-run                                the version of the source

Everything is built from the commit, never from the working tree, in two folders of different names, and refused where
the bytes differ: whoever has the tag can build the same files again (--dry-run; for the wheel with the same compiler)
and compare their digests. --dry-run commits and tags nothing. Nothing is uploaded.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Optional

VERSION_FILE = Path("client/src/metric_learn_client/_version.py")
CHANGELOG = Path("CHANGELOG.md")
UNRELEASED = "## [Unreleased]\n"
# What is installed where the service runs or is called -> the lock file that says so.
LOCKS = {
    "client": "client/requirements.txt",
    "server": "servable/requirements.txt",
    "engine": "servable/engine/requirements.txt",
    "export": "export/requirements.txt",
}
BUILD_S = 300


class ReleaseError(Exception):
    """The release cannot be made; says what to do."""


def checked(repository: Path, version: str, dry_run: bool) -> Optional[str]:
    """The new text of the changelog, or None where it has the section already. Raises ReleaseError."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ReleaseError(f"VERSION = {version!r}: must be three numbers, as 1.2.0")
    changed = _git(repository, "status", "--porcelain")
    if changed:
        raise ReleaseError(f"the working tree has changes:\n{changed}\ncommit them or put them away")
    if not dry_run and _git(repository, "tag", "--list", f"v{version}"):
        raise ReleaseError(f"the tag v{version} is there already: take the next version")
    if version_of(repository) != version:
        raise ReleaseError(f"{VERSION_FILE} says {version_of(repository)}, not {version}: change it, and commit that")
    return released((repository / CHANGELOG).read_text(), version, datetime.date.today())


def version_of(repository: Path) -> str:
    """The version that the source has."""
    found = re.search(r'__version__ = "(.*)"', (repository / VERSION_FILE).read_text())
    return "" if found is None else found[1]


def released(changelog: str, version: str, date: datetime.date) -> Optional[str]:
    """The changelog with its unreleased section under the version; None where that is there. Raises ReleaseError."""
    if re.search(rf"^## \[{re.escape(version)}\]", changelog, re.MULTILINE):
        return None
    before, head, rest = changelog.partition(UNRELEASED)
    section = re.split(r"^## \[", rest, maxsplit=1, flags=re.MULTILINE)[0]
    if not head or not section.strip():
        raise ReleaseError(f"{CHANGELOG}: nothing stands under {UNRELEASED.strip()!r}: write what users will notice")
    return f"{before}{UNRELEASED}\n## [{version}] - {date.isoformat()}\n{rest}"


def build(repository: Path, output: Path, version: str) -> list[Path]:
    """Writes sdist, wheel, SBOMs and SHA256SUMS of HEAD into `output`. Raises ReleaseError where two builds differ."""
    epoch = _git(repository, "log", "-1", "--format=%ct")
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / "first", Path(scratch) / "a second one" / "deeper"]
        made = [_build_once(repository, folder, version, epoch) for folder in folders]
        if made[0] != made[1]:
            differ = sorted(name for name in {*made[0], *made[1]} if made[0].get(name) != made[1].get(name))
            raise ReleaseError(f"two builds of one commit differ in {', '.join(differ)}")
    output.mkdir(parents=True, exist_ok=True)
    for name, content in made[0].items():
        (output / name).write_bytes(content)
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(made[0].items())]
    (output / "SHA256SUMS").write_text("".join(lines))
    return [output / name for name in (*sorted(made[0]), "SHA256SUMS")]


def sbom(generated: str, name: str, version: str) -> bytes:
    """What cyclonedx-py made of a lock file, without the lines and the registry that it was read from."""
    bom: dict[str, Any] = json.loads(generated)
    for component in bom["components"]:
        component.pop("description", None)
        component.pop("externalReferences", None)
    for tool in bom["metadata"]["tools"]["components"]:
        tool.pop("externalReferences", None)
    root = {"type": "application", "bom-ref": "root", "name": f"metric-learn-serving-{name}", "version": version}
    bom["metadata"]["component"] = root
    bom["dependencies"].append({"ref": "root", "dependsOn": sorted(each["bom-ref"] for each in bom["components"])})
    return (json.dumps(bom, indent=1, sort_keys=True) + "\n").encode()


def _build_once(repository: Path, folder: Path, version: str, epoch: str) -> dict[str, bytes]:
    """Name -> bytes of each file."""
    source, built = folder / "source", folder / "built"
    source.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=repository, check=True, capture_output=True).stdout
    subprocess.run(["tar", "x", "-C", str(source)], input=archive, check=True)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
    command = ["build", "--no-isolation", "--sdist", "--wheel", "--outdir", str(built), "client"]
    _run(command, source, environment)
    files = {path.name: path.read_bytes() for path in built.iterdir()}
    for name, lock in LOCKS.items():
        written = _run(["cyclonedx_py", "requirements", "--output-reproducible", lock], source, environment)
        files[f"{name}.cdx.json"] = sbom(written, name, version)
    return files


def _run(arguments: list[str], folder: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-W", "ignore", "-m", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=BUILD_S)
    if done.returncode:
        raise ReleaseError(f"{arguments[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=repository, capture_output=True, text=True)
    if done.returncode:
        raise ReleaseError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description="Make a release of what is committed.")
    parser.add_argument("version", nargs="?", help="x.y.z; with --dry-run that of the source where none is given")
    parser.add_argument("--dry-run", action="store_true", help="build and compare; commit and tag nothing")
    parser.add_argument("--output", type=Path, help="folder for the files (default: dist/VERSION)")
    given = parser.parse_args()
    repository = Path(__file__).resolve().parents[2]
    try:
        version = given.version or (version_of(repository) if given.dry_run else "")
        changelog = checked(repository, version, given.dry_run)
        if changelog is not None and not given.dry_run:
            (repository / CHANGELOG).write_text(changelog)
            _git(repository, "commit", "-q", "-m", f"Release {version}", str(CHANGELOG))
        for path in build(repository, given.output or repository / "dist" / version, version):
            print(path)
        if not given.dry_run:
            _git(repository, "tag", "-a", f"v{version}", "-m", f"metric-learn-serving {version}")
            print(f"tagged v{version}; now: git push --follow-tags")
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
