"""The GRAPH argument: a file of JSON or YAML, or the import path of a Graph or of a function that makes one."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import GraphError, InvalidValue, shown

if TYPE_CHECKING:
    from ..graph import Graph

SUFFIXES = (".json", ".yaml", ".yml")
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def graph_of(source: str, inputs: dict[str, Any] | None = None) -> Graph:
    """The graph that an argument names.

    Args:
        source: `graph.json`, `graph.yaml`, `-` (JSON on standard input) or `package.module:attribute`.
        inputs: arguments of the function, where the attribute is one.

    Raises:
        click.UsageError: there is no such file, module or attribute, or inputs for what takes none.
        GraphError: what was found is not a valid graph.
    """
    from ..graph import Graph

    if source == "-":
        _no_inputs(source, inputs)
        return Graph.from_json(sys.stdin.buffer.read())
    path = Path(source)
    if source.endswith(SUFFIXES) or path.is_file():
        _no_inputs(source, inputs)
        try:
            text = path.read_bytes()
        except OSError as missing:
            raise click.UsageError(f"{shown(source)} cannot be read: {missing.strerror}.") from None
        return Graph.from_json(text) if path.suffix == ".json" else Graph.from_yaml(text)
    if not _IMPORT_PATH.fullmatch(source):
        raise click.UsageError(
            f"{shown(source)} is neither a file ({', '.join(SUFFIXES)}) nor an import path such as shop.graphs:order."
        )
    return _made(source, attribute_of(source), inputs or {})


def attribute_of(import_path: str) -> Any:
    """What `package.module:attribute` names; the working directory is searched too, as Celery does.

    Raises:
        click.UsageError: there is no such module or attribute.
    """
    module_name, _, names = import_path.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109  sys.path holds text
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name and (module_name == missing.name or module_name.startswith(f"{missing.name}.")):
            raise click.UsageError(f"there is no module {module_name!r} here or on the Python path.") from None
        raise
    for name in names.split("."):
        if not hasattr(found, name):
            raise click.UsageError(f"module {module_name!r} has no {names!r}.")
        found = getattr(found, name)
    return found


def _made(source: str, found: Any, inputs: dict[str, Any]) -> Graph:
    from ..graph import Graph

    if isinstance(found, Graph):
        _no_inputs(source, inputs)
        return found
    if not callable(found):
        raise InvalidValue(source, found, "is neither a Graph nor a function", "Name a Graph, or what returns one.")
    try:
        inspect.signature(found).bind(**inputs)
    except TypeError as wrong:
        raise click.UsageError(f"{source} does not take these inputs: {wrong}.") from None
    made = found(**inputs)
    if not isinstance(made, Graph):
        raise InvalidValue(f"{source}()", made, "is not a Graph", "Return the Graph that it builds.")
    return made


def _no_inputs(source: str, inputs: dict[str, Any] | None) -> None:
    if inputs:
        raise click.UsageError(
            f"--input is for functions that build a graph, and {shown(source)} is a graph already. "
            "Write the values into it, or name a function."
        )


def inputs_of(given: Iterable[str]) -> dict[str, Any]:
    """`--input` options as one dict: name=value, where value is JSON if it can be read as that, or @file.json.

    >>> inputs_of(["n=3", "who=Ann", 'tags=["a"]'])
    {'n': 3, 'who': 'Ann', 'tags': ['a']}

    Raises:
        click.UsageError: neither.
    """
    found: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if one.startswith("@"):
            found.update(_from_file(one[1:]))
        elif equals and name.isidentifier():
            found[name] = _value(value)
        else:
            raise click.UsageError(f"--input {shown(one)} is neither NAME=VALUE nor @FILE.json.")
    return found


def _value(text: str) -> Any:
    from ..graph.document import from_json

    try:
        return from_json(text)
    except GraphError:
        return text


def value_of(text: str) -> Any:
    """An argument that is a value: JSON if it can be read as that, else text; or @FILE with JSON.

    >>> value_of('{"sum": 7}'), value_of("fine")
    ({'sum': 7}, 'fine')

    Raises:
        click.UsageError: the file cannot be read, or holds no JSON.
    """
    if not text.startswith("@"):
        return _value(text)
    try:
        return json.loads(Path(text[1:]).read_text(encoding="utf-8"))
    except OSError as missing:
        raise click.UsageError(f"{text}: cannot be read: {missing.strerror}.") from None
    except ValueError as broken:
        raise click.UsageError(f"{text}: is not JSON: {broken}.") from None


def _from_file(name: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as missing:
        raise click.UsageError(f"--input @{name}: cannot be read: {missing.strerror}.") from None
    except ValueError as broken:
        raise click.UsageError(f"--input @{name}: is not JSON: {broken}.") from None
    if not isinstance(found, dict):
        raise click.UsageError(f"--input @{name}: is not a JSON object.")
    return found
