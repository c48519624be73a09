"""Which files of an exported version a device loads: offline models where they fit it, else what a start compiles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from metric_learn_client.contract.version_manifest import ListedFile
from servable.config import ConfigError
from servable.config.problem import wrong
from servable.config.sections import Config
from servable.exported_version import ExportedVersion, compare_digests
from servable.runtime.cann import find_cann
from servable.runtime.device_probe import chip_name, family_of, target_of
from servable.runtime.engine_python import engine_python


def for_device(version: ExportedVersion, config: Config) -> ExportedVersion:
    """The version with `models` as this host's device loads them, their digests compared. Raises ConfigError."""
    loaded: dict[int, ListedFile] = {}
    used: list[ListedFile] = []
    if config.backend.aipp:
        if version.aipp is None or not set(version.batch_sizes) <= set(version.aipp.files):
            what = f"{version.folder} has no models for it in batch sizes {list(version.batch_sizes)}"
            raise ConfigError(
                str(wrong(config, "backend.aipp", what, "export it again with --aipp, or set it to false"))
            )
        loaded.update(version.aipp.files)
        used.append(version.aipp.config)
    offline = _offline(version, config)
    loaded.update(offline)
    loaded = {size: entry for size, entry in loaded.items() if size in version.batch_sizes}
    used += loaded.values()
    try:
        compare_digests(version.folder, used)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; export or convert the version again") from error
    return replace(
        version,
        models={**version.models, **{size: str(entry["file"]) for size, entry in loaded.items()}},
        compiled_ahead=frozenset(set(offline) & set(version.batch_sizes)),
        aipp_config=version.folder / version.aipp.config["file"] if config.backend.aipp and version.aipp else None,
    )


def _offline(version: ExportedVersion, config: Config) -> Mapping[int, ListedFile]:
    """Those for this host's chip; none where the version has none for backend.target. Raises ConfigError."""
    backend = config.backend
    there = [each for each in version.offline if target_of(each.soc_version) == backend.target]
    there = [each for each in there if each.aipp == backend.aipp]
    if not there:
        return {}
    chip = _chip(config)
    fitting = next((each for each in there if each.soc_version == chip or (not chip and len(there) == 1)), None)
    if fitting is None:
        names = ", ".join(sorted(each.soc_version for each in there))
        raise ConfigError(
            f"{version.folder}: its offline models are for {names}, and cannot run on this host's {chip or 'chip'}; "
            f"run `{_command(version, chip, backend.aipp)}` on this host"
        )
    if fitting.precision_mode != backend.precision_mode:
        what = f"the offline models of {version.folder} were compiled with {fitting.precision_mode}"
        again = f"{_command(version, chip, backend.aipp)} --precision-mode {backend.precision_mode} --force"
        remedy = f"set it to {fitting.precision_mode}, or run `{again}` on this host"
        raise ConfigError(str(wrong(config, "backend.precision_mode", what, remedy)))
    return fitting.files


def _chip(config: Config) -> str:
    cann = find_cann(os.environ)
    return chip_name(engine_python(config), cann) if cann else ""


def _command(version: ExportedVersion, chip: str, aipp: bool) -> str:
    return f"python -m export convert --version {version.number} --target {family_of(chip)}{' --aipp' if aipp else ''}"
