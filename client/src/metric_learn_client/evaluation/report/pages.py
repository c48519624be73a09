"""Self-contained HTML pages: everything inline, every text escaped, readable on a phone. Pure but for the pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from metric_learn_client.evaluation.report.thumbnails import Pictures
from metric_learn_client.printable import printable


@dataclass(frozen=True)
class Item:
    """One image on a page."""

    path: str
    thumbnail: Optional[str]
    similarity: Optional[float] = None
    note: str = ""


@dataclass(frozen=True)
class Result:
    query: Item
    neighbours: Sequence[Item]


def item(pictures: Pictures, path: str, similarity: Optional[float] = None, note: str = "") -> Item:
    return Item(printable(path), pictures.thumbnail(path), similarity, note)


def png_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def search_page(about: str, results: Sequence[Result]) -> str:
    return render("search.html.j2", title="Nearest images", about=about, results=results)


def render(template: str, **values: Any) -> str:
    """Raises jinja2.UndefinedError for a value that a template needs and does not get."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("metric_learn_client.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
