"""The table of keys in servable/README.md, from the sections.

python -m servable.config.key_table    writes it anew
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from servable.config.sections import REPOSITORY, Config

PAGE = REPOSITORY / "servable" / "README.md"
HEAD = "| key | default | allowed | meaning |\n|---|---|---|---|\n"
UNITS = {"_s": "seconds", "_bytes": "bytes", "_px": "pixels", "_mb": "MB"}  # by the end of a key
KINDS: dict[Any, str] = {bool: "`true`, `false`", Path: "a path", str: "text", int: "whole number", float: "number"}


def key_table() -> str:
    """One row for each key, in the order of the sections."""
    rows = []
    for section, field in Config.model_fields.items():
        for key, one in type(field.default).model_fields.items():
            cells = (f"`{section}.{key}`", _default(one.default), _allowed(key, one), one.description or "")
            rows.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(rows)


def with_key_table(page: str) -> str:
    """`page` with its table of keys replaced. Raises ValueError when it has none."""
    before, head, rest = page.partition(HEAD.splitlines()[0].partition("| default")[0])
    if not head:
        raise ValueError(f"no table that begins with {head!r}")
    _, gap, after = rest.partition("\n\n")
    return before + key_table() + gap[1:] + after


def _default(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    # Of this process: the temporary directory and the user differ from host to host.
    return f"`{value}`".replace(tempfile.gettempdir(), "<tmp>").replace(f"-{os.getuid()}", "-<uid>")


def _allowed(key: str, field: FieldInfo) -> str:
    given: Any = field.annotation
    parts = get_args(given)
    if get_origin(given) is Literal:
        return ", ".join(f"`{choice}`" for choice in parts)
    if type(None) in parts:  # Optional
        return KINDS[get_args(parts[0])[0]]
    unit = next((unit for end, unit in UNITS.items() if key.endswith(end)), None)
    if get_origin(given) is tuple:
        item, *constraints = get_args(parts[0]) or parts[:1]
        return f"a list of {KINDS[item]}s{_range([one for each in constraints for one in each.metadata])}"
    return (unit or KINDS[given]) + _range(field.metadata)


def _range(bounds: list[Any]) -> str:
    """ ", 1 to 64", or "" without bounds."""
    least, above, most = (
        next((getattr(bound, name) for bound in bounds if isinstance(bound, kind)), None)
        for name, kind in (("ge", Ge), ("gt", Gt), ("le", Le))
    )
    low = f"above {above}" if above is not None else f"{least}" if least is not None else ""
    if most is None:
        return f", {low} or more" if low else ""
    return f", {low} to {most}" if above is None else f", {low}, at most {most}"


if __name__ == "__main__":
    PAGE.write_text(with_key_table(PAGE.read_text()))
