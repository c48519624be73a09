"""The whole examination: configuration, interpreter, directories, gateway, exported versions, host.

What the gateway needs is decided by the gateway itself (servable/gateway/preparation.py), here as at its start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from servable.config import ConfigError
from servable.config.problem import CONFIGURATION, Problem
from servable.config.sections import Config
from servable.device_models import for_device
from servable.doctor.ascend import ascend_problems, ascend_warnings
from servable.doctor.consistency import inconsistencies
from servable.doctor.directories import directory_problems
from servable.doctor.interpreter import engine_problems, interpreter_warnings
from servable.doctor.resources import resource_problems
from servable.exported_version import ExportedVersion, find_version, open_version
from servable.gateway import StartError, prepare


@dataclass
class Examined:
    """problems: all that were found. versions: those to serve, by number; default: callers that name none get it.

    warnings: what will work, but perhaps not as the operator thinks.
    """

    problems: list[Problem] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    versions: dict[int, ExportedVersion] = field(default_factory=dict)
    default: int = 0


def examine(config: Config) -> Examined:
    """Reads and binds, writes nothing, starts nothing."""
    found = Examined(warnings=(*interpreter_warnings(), *ascend_warnings(config)))
    engine = list(engine_problems(config))
    found.problems += ascend_problems(config, load=not engine)
    if found.problems:
        return found  # on the wrong host nothing else matters
    found.problems += inconsistencies(config)
    found.problems += engine
    found.problems += directory_problems(config)
    found.problems += _gateway(config, found)
    found.problems += _versions(config, found)
    found.problems += resource_problems(config, list(found.versions.values()))
    return found


def default_version(config: Config) -> int:
    """model.version, or the highest of model.versions, or the highest exported. Raises ConfigError."""
    wanted = config.model.version or max(config.model.versions, default=0)
    return int(find_version(config.model.root, wanted, config.origin("model.version")).name)


def open_configured(config: Config, number: int) -> ExportedVersion:
    """The exported version `number`, checked, with the batch sizes and files to be served. Raises ConfigError."""
    folder = find_version(config.model.root, number, config.origin("model.version"))
    version = open_version(folder)
    wanted = config.backend.batch_sizes
    if not set(wanted) <= set(version.batch_sizes):
        has = f"{folder} has {list(version.batch_sizes)}"
        raise ConfigError(
            f"{config.origin('backend.batch_sizes')}: backend.batch_sizes = {list(wanted)}: {has}; choose among them, "
            "or export the others (configs/model.yaml: batch_sizes)"
        )
    version = version.with_batch_sizes(wanted) if wanted else version
    return version if config.backend.target == "cpu" else for_device(version, config)


def _gateway(config: Config, found: Examined) -> Iterable[Problem]:
    try:
        found.warnings += prepare(config).warnings
    except StartError as error:
        return error.problems
    return ()


def _versions(config: Config, found: Examined) -> Iterator[Problem]:
    try:
        found.default = default_version(config)
    except ConfigError as error:
        yield Problem(str(error), CONFIGURATION)
    for number in dict.fromkeys((found.default, *config.model.versions)):
        try:
            if number:
                found.versions[number] = open_configured(config, number)
        except ConfigError as error:
            yield Problem(str(error), CONFIGURATION)
