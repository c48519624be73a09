"""The option type of embeddings that a command reads: a path on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import click


class Embeddings(click.Path):
    """The output of a job, or a file. One on object storage is refused with what to do."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        if "://" in str(value):
            self.fail(
                f"{value}: read from a copy on this machine: aws s3 sync {value} COPY, and then name COPY", param, ctx
            )
        return super().convert(value, param, ctx)
