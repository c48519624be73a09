"""The server's configuration: read once, checked whole, then frozen. Flag > environment > file > default."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from servable.config.sections import REPOSITORY, Config

__all__ = ["REPOSITORY", "Config", "ConfigError", "load_config"]

ENVIRONMENT_PREFIX = "METRIC_LEARN_"
# What PyYAML raises. Beside its own errors those of Python: a value is not what it looks like, or nested too deeply.
UNREADABLE = (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)
WORDS = {  # for pydantic's types of errors whose own message speaks of Python
    "tuple_type": "must be a list, such as [3]",
    "string_type": "must be text",
    "path_type": "must be a path",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}


class ConfigError(Exception):
    """What is wrong, one line each: file, key, value and what is allowed. Exit code 2."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which a key may stand once: PyYAML alone lets the last of two win, silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(getattr(key, "value", ""))
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"key {name} stands twice", problem_mark=key.start_mark)
            seen.add(name)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def load_config(path: Path, flags: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> Config:
    """Reads YAML, then METRIC_LEARN_SECTION__KEY, then `section.key=value` flags. Raises ConfigError."""
    try:
        document = yaml.load(path.read_text(), Loader=_Loader) or {}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a configuration such as configs/cpu.yaml") from error
    except UNREADABLE as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}; correct it there") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must hold sections ({', '.join(Config.model_fields)}), not {document!r}")
    origin: dict[str, str] = {}
    for name, value in sorted(environment.items()):
        section, found, key = name[len(ENVIRONMENT_PREFIX) :].lower().partition("__")
        if name.startswith(ENVIRONMENT_PREFIX) and found:
            _put(document, section, key, value, f"environment {name}", origin)
    for flag in flags:
        dotted, found, value = flag.partition("=")
        section, dot, key = dotted.partition(".")
        if not (found and dot and section and key):
            raise ConfigError(f"--set {flag}: must be section.key=value")
        _put(document, section, key, value, f"--set {dotted}", origin)
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        lines = [_line(details, path, origin) for details in error.errors()]
        raise ConfigError("\n".join(lines)) from error
    config._file, config._origin = path, origin
    return config


def _put(document: dict[Any, Any], section: str, key: str, value: str, source: str, origin: dict[str, str]) -> None:
    if document.get(section) is None:
        document[section] = {}
    target = document[section]
    if not isinstance(target, dict):
        raise ConfigError(f"{source}: section {section} of the file is not a mapping; write {section}: {{{key}: ...}}")
    try:
        target[key] = yaml.load(value, Loader=_Loader)
    except UNREADABLE as error:
        line = f"{source}: {section}.{key} = {_short(value)}: must be YAML; put quotes around text"
        raise ConfigError(line) from error
    origin[f"{section}.{key}"] = source


def _line(details: ErrorDetails, path: Path, origin: Mapping[str, str]) -> str:
    key = ".".join(str(part) for part in details["loc"][:2])
    source = origin.get(key, str(path))
    if details["type"] == "extra_forbidden":
        known = Config.model_fields if len(details["loc"]) == 1 else _section_keys(str(details["loc"][0]))
        return f"{source}: unknown key {key}{_suggestion(str(details['loc'][-1]), known)}; known: {', '.join(known)}"
    if details["type"] in ("model_type", "model_attributes_type"):
        keys = ", ".join(_section_keys(key))
        return f"{source}: {key} = {_short(details['input'])}: must be a section with keys: {keys}"
    return f"{source}: {key} = {_short(details['input'])}: {_words(details)}"


def _words(details: ErrorDetails) -> str:
    """pydantic's words in our form: "must be ..."."""
    if details["type"] in WORDS:
        return WORDS[details["type"]]
    message = details["msg"].replace("Value error, ", "").replace("Input should be", "must be")
    return " ".join(message.split())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _section_keys(section: str) -> list[str]:
    field = Config.model_fields.get(section)
    annotation: Any = field.annotation if field else None
    return list(annotation.model_fields) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
