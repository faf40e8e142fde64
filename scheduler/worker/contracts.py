"""What executors take and give, as JSON Schema, for the scheduler to check graphs against.

An @executor function's contract comes from its annotations, which are enforced. A plain task's annotations are not
enforced by anybody, so its contract has schemas only where every annotation is a plain JSON type.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterable
from typing import Any, Union, cast, get_args, get_origin

from celery import Task
from pydantic import PydanticUserError, TypeAdapter
from pydantic_core import SchemaValidator

from ..errors import InvalidValue
from ..wire import BUNDLE, CAPABILITY_NAME, VERSION, read_tool
from .installation import Installation

PURITIES = ("pure", "idempotent", "keyed", "unsafe")
_PLAIN = {int, float, str, bool, type(None)}


def contracts_of(installation: Installation) -> dict[str, dict[str, Any]]:
    """The contracts of all tasks of the app, except Celery's own: name -> contract."""
    return {
        name: contract_of(task, installation.class_name())
        for name, task in sorted(installation.app.tasks.items())
        if not name.startswith("celery.") and name != BUNDLE
    }


def contract_of(task: Any, queue_class: str | None) -> dict[str, Any]:
    """One task's contract.

    Args:
        task: a registered task.
        queue_class: what the worker serves, for an executor that declares none.
    """
    own = getattr(task, "celeriac_executor", None)
    if own is not None:
        declared: dict[str, Any] = {**own.contract()}
        declared["queue_class"] = declared["queue_class"] or queue_class
        return declared | {"celery_retries": celery_retries(task)}
    input_schema, output_schema = _plain_schemas(task)
    return {
        "v": VERSION,
        "name": task.name,
        "queue_class": queue_class,
        "input_schema": input_schema,
        "output_schema": output_schema,
        "timeout_seconds": task.time_limit,
        "soft_timeout_seconds": task.soft_time_limit,
        "cost": None,
        "purity": purity_of(task),
        "version": None,
        "capabilities": _plain_capabilities(task),
        "celery_retries": celery_retries(task),
        "tools": _plain_tools(task),
        "expected_seconds": _plain_expected(task),
        "bundle": getattr(task, "bundle", True) is not False,
        "doc": first_line(task.__doc__ if task.__doc__ != type(task).__mro__[1].__doc__ else None),
    }


def celery_retries(task: Any) -> list[str]:
    """What a task declares to Celery about its retries, such as "max_retries=10".

    It counts for nothing in a graph, where retries are the scheduler's alone; only a wait that it asks for is kept.
    """
    said = [(name, getattr(task, name, default), default) for name, default in _CELERY_RETRIES.items()]
    return [f"{name}={found!r:.60}" for name, found, default in said if found != default]


_CELERY_RETRIES: dict[str, Any] = {
    "autoretry_for": (),
    "max_retries": Task.max_retries,
    "retry_backoff": False,
    "retry_kwargs": {},
}


def checked_capabilities(names: object, where: str) -> tuple[str, ...]:
    """What an executor says that it can do, sorted.

    Raises:
        InvalidValue: no list of names.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InvalidValue(where, names, "is no list of names", 'Write ["generate"].')
    found = tuple(names)
    for name in found:
        if not isinstance(name, str) or not re.fullmatch(CAPABILITY_NAME, name):
            raise InvalidValue(
                where, name, "names no capability", "Write 1 to 100 letters, digits, and the characters _ . -"
            )
    return tuple(sorted(set(found)))


def checked_tools(tools: object, where: str) -> tuple[str, ...]:
    """Which tools an executor is, each with a version, sorted.

    Raises:
        InvalidValue: no list of tools, or one without a version.
    """
    if isinstance(tools, str) or not isinstance(tools, Iterable):
        raise InvalidValue(where, tools, "is no list of tools", 'Write ["search@2"].')
    found = tuple(tools)
    for tool in found:
        if not isinstance(tool, str) or not (read_tool(tool) or ("", ""))[1]:
            remedy = 'Write a name and a version, a number or two: "search@2", "search@2.1".'
            raise InvalidValue(where, tool, "names no tool with a version", remedy)
    return tuple(sorted(set(found)))


def _plain_capabilities(task: Any) -> list[str]:
    """Those of a plain task: @app.task(capabilities=[...]) sets them on it."""
    return list(checked_capabilities(getattr(task, "capabilities", None) or (), f"task {task.name}: capabilities"))


def _plain_tools(task: Any) -> list[str]:
    """Those of a plain task: @app.task(tools=["search@2"]) sets them on it. What is no list of texts is its own."""
    found = getattr(task, "tools", None)
    if not isinstance(found, list | tuple) or not all(isinstance(it, str) for it in found):
        return []
    return list(checked_tools(found, f"task {task.name}: tools"))


def _plain_expected(task: Any) -> float | None:
    """How long a plain task usually takes: @app.task(expected_seconds=2.5) sets it; what is no number is its own."""
    found = getattr(task, "expected_seconds", None)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    if not 0 < found < float("inf"):
        where = f"task {task.name}: expected_seconds"
        raise InvalidValue(where, found, "is not a positive number", "Give one above 0, or none.")
    return found


def purity_of(task: Any) -> str | None:
    """What a task says of its effects: its executor does, or @app.task(purity=...); what is no text there is its own.

    Raises:
        InvalidValue: a text that says nothing.
    """
    own = getattr(task, "celeriac_executor", None)
    found = getattr(task, "purity", None) if own is None else own.purity
    if not isinstance(found, str):
        return None
    if found not in PURITIES:
        where = f"task {task.name}: purity"
        raise InvalidValue(where, found, "is not known", f"Use one of {', '.join(PURITIES)}.")
    return found


def first_line(doc: str | None) -> str | None:
    """The first line of a docstring, or None."""
    lines = (doc or "").strip().splitlines()
    return lines[0].strip() if lines else None


def _plain_schemas(task: Any) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    run = inspect.unwrap(getattr(task, "_orig_run", task.run))
    function = getattr(run, "__func__", run)
    try:
        signature = inspect.signature(run)
        hints = typing.get_type_hints(function)
    except (TypeError, ValueError, NameError, AttributeError):
        return None, None
    parameters = list(signature.parameters.values())
    if parameters and getattr(run, "__self__", None) is None and _takes_task(task, function):
        parameters = parameters[1:]
    inputs = None
    if all(
        p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name in hints and is_plain(hints[p.name])
        for p in parameters
    ):
        inputs = input_schema(Call(inspect.Signature(parameters), hints))
    output = None
    if "return" in hints and is_plain(hints["return"]):
        output = _schema(TypeAdapter(hints["return"]), "serialization")
    return inputs, output


def _takes_task(task: Any, function: Any) -> bool:
    """Whether the function is bound: its first parameter is the task itself."""
    run = inspect.getattr_static(type(task), "run", None)
    return not isinstance(run, staticmethod) and "run" not in vars(task) and function is not None


def is_plain(annotation: Any) -> bool:
    """Whether an annotation names JSON values and nothing else.

    >>> is_plain(dict[str, list[int]]), is_plain(set[int])
    (True, False)
    """
    if annotation in _PLAIN or annotation in (list, dict):
        return True
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return all(is_plain(it) for it in args)
    if origin is list:
        return all(is_plain(it) for it in args)
    return origin is dict and args[0] is str and is_plain(args[1])


class Call:
    """A function's parameters as one validator: of calls, and as JSON Schema.

    Args:
        signature: the parameters that count.
        hints: their resolved annotations.
    """

    def __init__(self, signature: inspect.Signature, hints: dict[str, Any]) -> None:
        def collect(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return args, kwargs

        parameters = [p.replace(annotation=hints.get(p.name, Any)) for p in signature.parameters.values()]
        collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect
        collect.__annotations__ = {p.name: p.annotation for p in parameters}
        self.adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, collect))


def input_schema(call: Call) -> dict[str, Any] | None:
    """JSON Schema of the keyword arguments, or None when it cannot be said."""
    return _schema(call.adapter, "validation")


def _schema(adapter: TypeAdapter[Any], mode: Any) -> dict[str, Any] | None:
    try:
        return adapter.json_schema(mode=mode)
    except PydanticUserError:
        return None


def checking_instances(adapter: TypeAdapter[Any]) -> SchemaValidator:
    """A validator that checks model and dataclass instances again, whatever their own setting.

    pydantic has no such switch for types that are not its own; and it would use the validators that models carry,
    were it not told otherwise (releases before 2.11 know neither that nor the argument).
    """
    schema = _again(adapter.core_schema)
    try:
        return SchemaValidator(schema, None, _use_prebuilt=False)
    except TypeError:
        return SchemaValidator(schema)


def _again(schema: Any) -> Any:
    if isinstance(schema, dict):
        copy = {key: _again(value) for key, value in schema.items()}
        if copy.get("type") in ("model", "dataclass"):
            copy["revalidate_instances"] = "always"
        return copy
    return [_again(it) for it in schema] if isinstance(schema, list) else schema
