"""A version's MindIRs -> offline models, compiled for the chip of this host by MindSpore Lite's converter.

They lie beside the MindIRs, in a section of their own in the manifest. The fingerprint stays, since it names the
embedding space; so does the schema's number: a server that does not know the section serves the version as before.
No MindSpore import: this runs where devices and CANN are, not where checkpoints are exported.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from export.errors import ExportError, UnusableInputError
from export.verify import whole_manifest
from metric_learn_client.contract.digests import file_sha256
from metric_learn_client.contract.version_manifest import (
    ListedModel,
    Manifest,
    OfflineModel,
    OfflineSection,
    write_manifest,
)
from servable.runtime.cann import Cann, find_cann
from servable.runtime.child_environment import child_environment
from servable.runtime.device_probe import chip_name, family_of
from servable.runtime.engine_python import installed_engine_python
from servable.runtime.lite_config import ascend_context
from servable.runtime.lite_converter import LIBRARY, Converter, find_converter
from servable.runtime.lite_runtime import lite_directory


def convert_for_device(
    folder: Path,
    family: str,
    precision_mode: str,
    batch_sizes: Sequence[int],
    progress: Callable[[str], None],
    *,
    aipp: bool,
    force: bool,
) -> OfflineSection:
    """Adds offline models to the exported version in `folder`; returns their section of its manifest.

    family: of servable.runtime.device_probe.FAMILIES; the host's chip must be of it. precision_mode: CANN's name.
    batch_sizes: empty for all that there are. aipp: of the models for it. Raises UnusableInputError, ExportError.
    """
    manifest = whole_manifest(folder)
    sources = _sources(folder, manifest, batch_sizes, aipp)
    python = installed_engine_python()
    if not python.exists():
        raise ExportError(f"{python} does not exist: --target needs the engine's environment; run `make engine-env`")
    converter = find_converter(python)
    if converter is None:
        raise UnusableInputError(
            f"METRIC_LEARN_LITE_DIR = {lite_directory()}: holds neither tools/converter/converter/converter_lite nor "
            f"{LIBRARY}; unset it and run `make server-env`, or name an unpacked package of MindSpore Lite 2.0.0"
        )
    cann, chip = _chip(python, family)
    there = manifest.get("offline", [])
    others = [each for each in there if (each["soc_version"], each["aipp"]) != (chip, aipp)]
    if len(others) < len(there) and not force:
        raise UnusableInputError(f"version {folder.name} has offline models for {chip}; replace them with --force")
    models: list[OfflineModel] = []
    with tempfile.TemporaryDirectory(prefix=".offline-", dir=folder) as scratch:
        settings = Path(scratch, "mindspore_lite.cfg")
        settings.write_text(
            ascend_context(precision_mode, folder / manifest["aipp"]["config"]["file"] if aipp else None)
        )
        for step, source in enumerate(sources, start=1):
            progress(f"offline model for {chip}, batch size {source['batch_size']} ({step} of {len(sources)})")
            made = Path(scratch, f"{Path(source['file']).stem}.{chip}.mindir")
            _compile(converter, folder / source["file"], made, settings, cann)
            listed: ListedModel = {"file": made.name, "batch_size": source["batch_size"], "sha256": file_sha256(made)}
            models.append({**listed, "made_from": source["sha256"]})
        for model in models:
            Path(scratch, model["file"]).replace(folder / model["file"])
    section: OfflineSection = {
        "soc_version": chip,
        "precision_mode": precision_mode,
        "aipp": aipp,
        "models": models,
        "tools": {"cann": cann.version, "converter": converter.name},
    }
    write_manifest(folder, {**manifest, "offline": [*others, section]})
    return section


def _sources(folder: Path, manifest: Manifest, batch_sizes: Sequence[int], aipp: bool) -> list[ListedModel]:
    """Entries of the MindIRs to be compiled."""
    if aipp and not manifest.get("aipp"):
        raise UnusableInputError(f"version {folder.name} has no models for AIPP; export it again with --aipp")
    entries = {entry["batch_size"]: entry for entry in (manifest["aipp"] if aipp else manifest)["mindir"]}
    missing = set(batch_sizes) - set(entries)
    if missing:
        raise UnusableInputError(f"--batch-size {min(missing)}: version {folder.name} has {sorted(entries)}")
    return [entries[size] for size in sorted(set(batch_sizes) or entries)]


def _chip(python: Path, family: str) -> tuple[Cann, str]:
    """CANN of this host, and the name of its chip."""
    cann = find_cann(os.environ)
    if cann is None:
        raise UnusableInputError(
            f"--target {family}: there is no CANN here, whose compiler is needed; run this on the Ascend host "
            "(CANN elsewhere than in /usr/local/Ascend: set ASCEND_HOME_PATH)"
        )
    chip = chip_name(python, cann)
    if family_of(chip) != family:
        found = f"an {chip}" if chip else "not known"
        remedy = (
            f"give --target {family_of(chip)}"
            if family_of(chip)
            else "offline models are made for a chip that is there"
        )
        raise UnusableInputError(f"--target {family}: the device of this host is {found}; {remedy}")
    return cann, chip


def _compile(converter: Converter, model: Path, made: Path, settings: Path, cann: Cann) -> None:
    environment = child_environment(converter.libraries[0], cann)
    folders = [*map(str, converter.libraries[1:]), environment["LD_LIBRARY_PATH"]]
    environment["LD_LIBRARY_PATH"] = ":".join(folders)
    files = [f"--modelFile={model}", f"--outputFile={made.with_suffix('')}", f"--configFile={settings}"]
    done = subprocess.run(
        [*converter.command, *files],
        env=environment,
        cwd=made.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not made.is_file():
        said = [line for line in done.stdout.splitlines() if "ERROR" in line] or done.stdout.splitlines() or ["nothing"]
        raise ExportError(
            f"{converter.name} gives exit code {done.returncode} for {model.name} and says: {said[0][:300]}; is CANN "
            f"{cann.version} in {cann.root} whole? `serving_server --check` tells"
        )
    made.chmod(0o644)
