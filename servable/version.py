"""The exported version that is served: found, and checked against its manifest's digests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from servable.config import REPOSITORY, Config, ConfigError


def find_version(config: Config) -> Path:
    """The folder of `model.version`. Raises ConfigError."""
    root = config.model.directory
    root = root if root.is_absolute() else REPOSITORY / root
    complete = {}
    for manifest in root.glob("*/manifest.json"):
        name = manifest.parent.name
        if name.isdigit() and str(int(name)) == name and int(name) > 0:
            complete[int(name)] = manifest.parent
    version = config.model.version or max(complete, default=0)
    if version not in complete:
        has = ", ".join(map(str, sorted(complete))) or "none"
        wanted = f"version {version}" if version else "any version"
        raise ConfigError(
            f"model.directory = {root}: does not hold {wanted} (exported: {has}); run `make export CKPT=file`"
        )
    return complete[version]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, after every MindIR's digest was compared with it. Raises ConfigError."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        for entry in manifest["mindir"]:
            digest = hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()
            if digest != entry["sha256"]:
                raise ConfigError(
                    f"{folder / entry['file']}: damaged: sha256 {digest}, the manifest says {entry['sha256']}; "
                    f"export version {folder.name} again with --force"
                )
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; export version {folder.name} again") from error
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder / 'manifest.json'}: not a manifest ({error!r}); export the version again"
        ) from error
    return manifest
