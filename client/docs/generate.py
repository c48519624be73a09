"""Writes client/docs/options.md and errors.md: the words are those of click's options, docstrings and signatures.

python client/docs/generate.py           # write both
python client/docs/generate.py --check   # exit 1 where one of them is not what the sources give
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Optional

import click

from metric_learn_client import EmbeddingClient, TlsOptions, errors, jobs
from metric_learn_client.cli import cli
from metric_learn_client.cli.shared.connection import endpoint_options
from metric_learn_client.contract import exit_codes, image_codes
from metric_learn_client.jobs import errors as job_errors
from metric_learn_client.jobs.options import InputSpec, JobOptions, RunOptions
from metric_learn_client.option_fields import facts_of
from metric_learn_client.options import ClientOptions

HERE = Path(__file__).parent
GENERATED = "<!-- Written by `make docs` from the source; edit that. -->\n"
CONNECTION = "the endpoint's options"
# Further errors of single commands, each with what its docstring says.
MORE_ERRORS = {
    "verification.golden": ("GoldenError",),
    "evaluation.protocol": ("ProtocolError",),
    "evaluation.embedding_set": ("EmbeddingSetError",),
    "search.index": ("SearchIndexError", "FingerprintMismatch"),
    "search.milvus": ("MilvusExportError",),
    "cli.shared.output_file": ("OutputFileError",),
}
METHODS = ("embed", "embed_one", "embed_pixels", "embed_iter", "is_ready", "wait_ready", "model", "close")


def options_page() -> str:
    """Every option of every command, and every argument of the client and of jobs."""
    return "\n".join(
        [
            "# Options\n",
            GENERATED,
            "Every option of the command `metric-learn`, then every argument in Python. An option that is not given",
            "has the value of the column *default*; `-` means that there is none. [Errors and exit codes](errors.md)",
            "are on a page of their own.\n",
            *_commands(),
            "## In Python: EmbeddingClient\n",
            "`EmbeddingClient(...)` and `AsyncEmbeddingClient(...)` take the same arguments, have the same methods.\n",
            *_arguments(EmbeddingClient.__init__),
            "### TlsOptions\n",
            *_arguments(TlsOptions, _meaning(TlsOptions)),
            "### Methods\n",
            *(line for name in METHODS for line in _method(name)),
            "",
            "## In Python: embed_dataset\n",
            "`metric_learn_client.jobs.embed_dataset(inputs, output_dir, ...)` is the [job](jobs.md) of",
            "`metric-learn embed --output-dir`.\n",
            *_arguments(jobs.embed_dataset, _job_meanings()),
        ]
    )


def errors_page() -> str:
    """Every exception, every code of an image, every exit code and every gRPC status."""
    kinds = {kind.__name__: kind for kind in [*_kinds(errors), *_kinds(job_errors)]}
    more = [
        getattr(importlib.import_module(f"metric_learn_client.{m}"), name)
        for m, ns in MORE_ERRORS.items()
        for name in ns
    ]
    statuses = dict(re.findall(r"^([A-Z_]+): (.+)$", _texts(errors)["BY_STATUS"], re.MULTILINE))
    return "\n".join(
        [
            "# Errors\n",
            GENERATED,
            "A call that fails raises one of the exceptions below; an image that fails inside a good call is a value",
            "with an image code. Programmer's mistakes are `ValueError` and `TypeError`, raised before anything is",
            "sent.\n",
            "```python",
            "from metric_learn_client import EmbeddingClient, EndpointError, ImagesFailedError\n",
            "try:",
            "    with EmbeddingClient() as client:",
            '        embeddings = client.embed(["a.jpg", "b.png"]).embeddings',
            "except ImagesFailedError as error:",
            "    for failure in error.errors:",
            "        print(failure.index, failure.code, failure.message)",
            "except EndpointError as error:",
            "    print(error.code, error)  # the gRPC status' name, and what to do",
            "```\n",
            "## Exceptions\n",
            "All are in `metric_learn_client`, those of jobs in `metric_learn_client.jobs`.\n",
            *_table(
                ("exception", "is a", "means", "caused by", "what to do"),
                ((f"`{name}`", f"`{kind.__base__.__name__}`", *_parts(kind.__doc__)) for name, kind in kinds.items()),
            ),
            "Of single commands, all `MetricLearnError`; the message says what to do:\n",
            *_table(("exception", "means"), ((f"`{kind.__name__}`", _parts(kind.__doc__)[0]) for kind in more)),
            "## Image codes\n",
            "In `ImageFailure.code`, in a job's `failures`, and at the start of `error_msg` on the wire. These are",
            "the service's:\n",
            *_table(("code", "the image", "what to do"), _members(image_codes.ImageErrorCode)),
            "And these are said by the client or by a job:\n",
            *_table(("code", "the image", "what to do"), _members(image_codes.ClientImageCode)),
            "## Exit codes\n",
            "Of `metric-learn`, of `python -m export` and of the server.\n",
            *_table(("code", "means", "what to do"), _members(exit_codes.ExitCode)),
            "## gRPC statuses\n",
            "What a status means here, and what it is in Python. [The gateway](../../servable/gateway/README.md) says",
            "which of them to send again.\n",
            *_table(
                ("status", "exception", "means"),
                ((name, f"`{kind.__name__}`", statuses[name]) for name, kind in errors.BY_STATUS.items()),
            ),
        ]
    )


def _commands() -> Iterator[str]:
    root = click.Context(cli, info_name="metric-learn")
    for path, command in _walk(cli, root, ()):
        yield f"## metric-learn {' '.join(path)}\n"
        yield _one_line(command.help) + "\n"
        parameters = [each for each in command.params if isinstance(each, click.Option)]
        own = [each for each in parameters if each.name not in _connection()]
        usage = " ".join(command.collect_usage_pieces(click.Context(command, root)))
        yield f"`metric-learn {' '.join(path)} {usage}`\n"
        yield from _table(("option", "value", "default", "meaning"), map(_option, own))
        if len(own) < len(parameters):
            yield f"And [{CONNECTION}](#{CONNECTION.replace(' ', '-').replace(chr(39), '')}).\n"
    yield f"## {CONNECTION[0].upper()}{CONNECTION[1:]}\n"
    yield "Of every command that asks an endpoint.\n"
    yield from _table(("option", "value", "default", "meaning"), map(_option, _connection().values()))


def _walk(
    group: click.Group, context: click.Context, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _walk(command, context, (*path, name))
        else:
            yield (*path, name), command


def _connection() -> dict[str, click.Option]:
    @endpoint_options
    def nothing() -> None: ...

    return {option.name: option for option in reversed(nothing.__click_params__)}  # type: ignore[attr-defined]


def _option(option: click.Option) -> tuple[str, ...]:
    names = ", ".join(f"`{name}`" for name in sorted(option.opts, key=len, reverse=True))
    variable = f"; or the environment variable `{option.envvar}`" if option.envvar else ""
    if not option.help:
        raise ValueError(f"the option {names} has no help text")
    default = "needed" if option.required else _default(option.default)
    return names, _value(option), default, _one_line(option.help) + variable


def _value(option: click.Option) -> str:
    if option.is_flag:
        return "flag"
    kind: Any = option.type
    if isinstance(kind, click.Choice):
        return ", ".join(f"`{choice}`" for choice in kind.choices)
    ranges = {click.IntRange: "whole number", click.FloatRange: "number"}
    number = next((word for each, word in ranges.items() if isinstance(kind, each)), None)
    if number is None:
        return {"integer": "whole number", "float": "number", "text": "text"}.get(kind.name, "path")
    low = "" if kind.min is None else f", {'above' if kind.min_open else 'from'} {kind.min:g}"
    return number + low + ("" if kind.max is None else f", to {kind.max:g}")


def _default(value: Any) -> str:
    unset = value is None or value is False or value in ((), "") or type(value).__name__ == "Sentinel"
    return "-" if unset else ", ".join(f"`{each}`" for each in (value if isinstance(value, tuple) else (value,)))


def _arguments(function: Any, more: Optional[dict[str, str]] = None) -> Iterator[str]:
    """The arguments of a function or of a dataclass. Raises ValueError where one has no meaning in its docstring."""
    signature = inspect.signature(function)
    names = [name for name in signature.parameters if name != "self"]
    meanings = {**(more or {}), **_meanings(inspect.getdoc(function) or "", names)}
    missing = [name for name in names if name not in meanings]
    if missing:
        raise ValueError(f"{function.__qualname__}: its docstring does not say what {', '.join(missing)} means")
    rows = (
        (f"`{name}`", "needed" if one.default is one.empty else f"`{one.default!r}`", meanings[name])
        for name, one in ((name, signature.parameters[name]) for name in names)
    )
    return _table(("argument", "default", "meaning"), rows)


def _meanings(docstring: str, names: Iterable[str]) -> dict[str, str]:
    """name -> what a docstring says of it, on lines that begin `name: ` and go on indented."""
    found: dict[str, str] = {}
    name = ""
    for line in docstring.splitlines():
        head = re.match(r"(\w+): (.*)", line)
        if head and head[1] in names:
            name = head[1]
            found[name] = head[2]
        elif name and line.startswith("    "):
            found[name] += " " + line.strip()
        else:
            name = ""
    return found


def _job_meanings() -> dict[str, str]:
    kinds = (ClientOptions, InputSpec, JobOptions, RunOptions)
    return {
        "endpoint": _meaning(ClientOptions)["endpoints"],
        **{k: v for kind in kinds for k, v in _meaning(kind).items()},
    }


def _meaning(kind: Any) -> dict[str, str]:
    return {field.name: facts.meaning for field, facts in facts_of(kind)}


def _method(name: str) -> Iterator[str]:
    function = getattr(EmbeddingClient, name)
    signature = inspect.signature(function)
    shown = signature.replace(
        parameters=[one.replace(annotation=one.empty) for key, one in signature.parameters.items() if key != "self"],
        return_annotation=signature.empty,
    )
    yield f"- `{name}{shown}`: {_one_line(inspect.getdoc(function))}"


def _kinds(module: ModuleType) -> list[type[Exception]]:
    """The errors that a module defines and a user meets, in its order."""
    own = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    return [each for each in own if issubclass(each, errors.MetricLearnError)]


def _members(kind: Any) -> Iterator[tuple[str, ...]]:
    """(value, meaning, what to do) of each member, from the string behind it."""
    texts = _texts(sys.modules[kind.__module__], kind.__name__)
    for member in kind:
        meaning, _, remedy = _parts(texts[member.name])
        yield f"`{member.value}`", meaning, remedy


def _texts(module: ModuleType, inside: str = "") -> dict[str, str]:
    """name -> the string that follows its assignment, at the top of a module or inside a class."""
    body = ast.parse(inspect.getsource(module)).body
    if inside:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == inside)
    found = {}
    for before, after in zip(body, body[1:]):
        target = before.targets[0] if isinstance(before, ast.Assign) else getattr(before, "target", None)
        if isinstance(target, ast.Name) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[target.id] = inspect.cleandoc(str(after.value.value))
    return found


def _parts(text: Optional[str]) -> tuple[str, str, str]:
    """(meaning, cause, what to do) of `meaning Cause: ... Do: ...`."""
    rest, _, remedy = _one_line(text).partition(" Do: ")
    meaning, _, cause = rest.partition(" Cause: ")
    return meaning, cause[:1].upper() + cause[1:], remedy[:1].upper() + remedy[1:]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    lines = [" | ".join(cell.replace("|", "\\|") or "-" for cell in row) for row in rows]
    if lines:
        yield f"| {' | '.join(head)} |"
        yield "|---" * len(head) + "|"
        yield from (f"| {line} |" for line in lines)
        yield ""


def _one_line(text: Optional[str]) -> str:
    return re.sub(r"\s+", " ", (text or "").replace("[job] ", "")).strip()


def main() -> int:
    stale = []
    for name, content in (("options.md", options_page()), ("errors.md", errors_page())):
        path = HERE / name
        if "--check" not in sys.argv:
            path.write_text(content)
        elif not path.is_file() or path.read_text() != content:
            stale.append(name)
    if stale:
        print(f"client/docs: {', '.join(stale)}: not what the source gives; run `make docs`", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
