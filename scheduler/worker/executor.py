"""@executor: a function whose inputs and output are checked, with what the scheduler should know of it.

    @executor(queue_class="standard-low", timeout=60, purity="pure")
    def topics(text: str, limit: int = 5) -> Topics: ...

Wrong inputs end the node as invalid_input; a wrong output ends it as contract and is never passed on.
Values are converted as pydantic does by default: what comes out is what the annotation says.
The function stays a function: calling it calls it, unchecked, and delay() sends an ordinary Celery task.
"""

from __future__ import annotations

import inspect
import json
import threading
import typing
from collections.abc import Callable, Iterable
from functools import cached_property, update_wrapper
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

from celery import current_app
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs, PydanticSerializationError, SchemaValidator, to_jsonable_python

from ..errors import ContractBroken, InvalidInput, InvalidValue
from ..wire import CAPABILITY, VERSION, is_found_later
from .adopt import adopt
from .context import Context, attempt
from .contracts import PURITIES, Call, checked_capabilities, checked_tools, checking_instances, first_line, input_schema
from .endings import ErrorTable, check_errors
from .installation import Installation, installation_of

P = ParamSpec("P")
T = TypeVar("T")
Purity = Literal["pure", "idempotent", "keyed", "unsafe"]
_lock = threading.Lock()
_known: dict[str, Executor[..., Any]] = {}
_installations: list[Installation] = []


class Executor(Generic[P, T]):
    """An executor: call it as the function it is, or send it with delay().

    Attributes:
        name: what graphs call it, and the name of its Celery task.
        function: the function as written.
    """

    def __init__(  # noqa: PLR0913  an executor has that many properties, all of them optional and by keyword
        self,
        function: Callable[P, T],
        *,
        name: str | None = None,
        queue_class: str | None = None,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        cost: float | None = None,
        purity: Purity | None = None,
        version: str | None = None,
        errors: ErrorTable | None = None,
        capabilities: Iterable[str] = (),
        tools: Iterable[str] = (),
        expected_seconds: float | None = None,
        bundle: bool = True,
        app: Any = None,
    ) -> None:
        update_wrapper(self, function)
        self.function = function
        self.name = name or f"{function.__module__}.{function.__name__}"
        where = f"@executor on {self.name}"
        numbers = {"timeout": timeout, "soft_timeout": soft_timeout, "cost": cost, "expected_seconds": expected_seconds}
        for field, value in numbers.items():
            if value is not None and not _is_positive(value):
                raise InvalidValue(f"{where}: {field}", value, "is not a positive number", "Give one above 0, or none.")
        if purity is not None and purity not in PURITIES:
            raise InvalidValue(f"{where}: purity", purity, "is not known", f"Use one of {', '.join(PURITIES)}.")
        if errors is not None:
            check_errors(errors, f"{where}: errors")
        if is_found_later(self.name):
            what = "capability" if self.name.startswith(CAPABILITY) else "tool"
            raise InvalidValue(f"{where}: name", self.name, f"names a {what}", "Begin it otherwise.")
        self.queue_class = queue_class
        self.timeout = timeout
        self.soft_timeout = soft_timeout
        self.cost = cost
        self.purity = purity
        self.version = version
        self.errors = dict(errors or {})
        self.capabilities = checked_capabilities(capabilities, f"{where}: capabilities")
        self.expected_seconds = expected_seconds
        if type(bundle) is not bool:
            raise InvalidValue(f"{where}: bundle", bundle, "is neither True nor False", "Write False, or leave it out.")
        self.bundle = bundle
        self.tools = checked_tools(tools, f"{where}: tools")
        self.app = app

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The function itself; a Context parameter that is not given is filled in."""
        return self.function(*args, **self._with_context(args, kwargs))

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Send it as an ordinary Celery task, outside any graph; returns Celery's AsyncResult."""
        return self.apply_async(args, kwargs)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Celery's apply_async; models among the arguments are sent as JSON."""
        return self.task.apply_async(_jsonable(args or ()), _jsonable(kwargs or {}), **options)

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Celery's signature of a call."""
        return self.task.s(*_jsonable(args), **_jsonable(kwargs))

    @property
    def task(self) -> Any:
        """The Celery task, in the app that was given, else the current one."""
        app = self.app or current_app
        if self.name not in app.tasks:
            register(self, app)
        return app.tasks[self.name]

    def contract(self) -> dict[str, Any]:
        """What workers publish of it."""
        return {
            "v": VERSION,
            "name": self.name,
            "queue_class": self.queue_class,
            "input_schema": input_schema(self._call),
            "output_schema": self._output_schema,
            "timeout_seconds": self.timeout,
            "soft_timeout_seconds": self.soft_timeout,
            "cost": self.cost,
            "purity": self.purity,
            "version": self.version,
            "capabilities": list(self.capabilities),
            "tools": list(self.tools),
            "expected_seconds": self.expected_seconds,
            "bundle": self.bundle,
            "doc": first_line(self.function.__doc__),
        }

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What the Celery task does: check the inputs, call the function, check the output.

        Raises:
            InvalidInput: the inputs are not what the annotations say.
            ContractBroken: the output is not.
        """
        try:
            args, kwargs = self._call.adapter.validate_python(ArgsKwargs(args, kwargs))
        except ValidationError as problem:
            raise _refused(InvalidInput, f"inputs of {self.name}", problem, "validate") from None
        output = self._called(args, kwargs)
        if self._output is None:
            return output
        try:
            return self._output.dump_python(self._output_check.validate_python(output), mode="json", warnings="error")
        except ValidationError as problem:
            raise _refused(ContractBroken, f"output of {self.name}", problem, "collect") from None
        except PydanticSerializationError as problem:
            broken = ContractBroken(f"output of {self.name}: {problem}")
            broken.phase = "collect"  # type: ignore[attr-defined]  # read by endings.error_of
            raise broken from None

    def decode(self, output: bytes) -> T:
        """The stored output as the annotation says; plain JSON without one. For clients that wait for it."""
        found: T = json.loads(output) if self._output is None else self._output.validate_json(output)
        return found

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return typing.get_type_hints(self.function, include_extras=True)

    @cached_property
    def _context_name(self) -> str | None:
        """The parameter that asks for a Context, if there is one."""
        return next((name for name, hint in self._hints.items() if name != "return" and _asks_context(hint)), None)

    @cached_property
    def _call(self) -> Call:
        signature = inspect.signature(self.function)
        return Call(
            signature.replace(parameters=[p for name, p in signature.parameters.items() if name != self._context_name]),
            self._hints,
        )

    @cached_property
    def _output(self) -> TypeAdapter[Any] | None:
        return TypeAdapter(self._hints["return"]) if "return" in self._hints else None

    @cached_property
    def _output_check(self) -> SchemaValidator:
        """The output's validator; models are checked again, for they may have been changed since they were made."""
        return checking_instances(TypeAdapter(self._hints["return"]))

    @cached_property
    def _output_schema(self) -> dict[str, Any] | None:
        return None if self._output is None else self._output.json_schema(mode="serialization")

    @cached_property
    def _context_position(self) -> int | None:
        """Where the Context stands among positional parameters; None when it is given by name or not at all."""
        parameters = inspect.signature(self.function).parameters
        name = self._context_name
        if name is None or parameters[name].kind is inspect.Parameter.KEYWORD_ONLY:
            return None
        return list(parameters).index(name)

    def _called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        """Call the function with checked inputs, among which the Context is missing."""
        name, position = self._context_name, self._context_position
        function: Callable[..., T] = self.function
        if name is None:
            return function(*args, **kwargs)
        context = attempt() or Context()
        if position is not None and position < len(args):
            return function(*args[:position], context, *args[position:], **kwargs)
        return function(*args, **{**kwargs, name: context})

    def _with_context(self, args: Any, kwargs: Any) -> Any:
        """The keywords of a direct call, with a Context where the caller gave none."""
        name, position = self._context_name, self._context_position
        if name is None or name in kwargs or (position is not None and position < len(args)):
            return kwargs
        return {**kwargs, name: attempt() or Context()}

    def __repr__(self) -> str:
        return f"<executor {self.name}>"


@overload
def executor(function: Callable[P, T], /) -> Executor[P, T]: ...


@overload
def executor(
    name: str | None = None,
    *,
    queue_class: str | None = None,
    timeout: float | None = None,
    soft_timeout: float | None = None,
    cost: float | None = None,
    purity: Purity | None = None,
    version: str | None = None,
    errors: ErrorTable | None = None,
    capabilities: Iterable[str] = (),
    tools: Iterable[str] = (),
    expected_seconds: float | None = None,
    bundle: bool = True,
    app: Any = None,
) -> Callable[[Callable[P, T]], Executor[P, T]]: ...


def executor(name: Any = None, **options: Any) -> Any:
    """Make a function an executor; also usable without parentheses.

    Args:
        name: what graphs call it; default module.function.
        queue_class: where it runs; default the class that the worker serves.
        timeout: seconds after which it is killed.
        soft_timeout: seconds after which SoftTimeLimitExceeded is raised in it.
        cost: estimate for one call, in the unit that your budgets use.
        purity: "pure", "idempotent", "keyed" (idempotent by ctx.key) or "unsafe": an attempt that may have begun and
            was lost is not repeated then, unless the node's own ladder answers losses. scheduler.testing.check_purity
            tries whether it is true.
        version: of the code, where it decides the output.
        errors: what exceptions mean that are not ours: class or full name -> kind, or kind and origin, such as
            {KeyError: "permanent", "requests.exceptions.HTTPError": ("transient", "external")}. Subclasses are
            meant too; the most particular class counts.
        capabilities: what it can do, such as ["generate"], for nodes that ask for that and not for an executor.
        tools: which tools it is, each with a version, such as ["search@2"], for nodes that ask for a tool.
        expected_seconds: how long one call usually takes; it is not begun when less is left until its run's deadline.
        bundle: short calls may share a message with others; False gives each one of its own.
        app: a Celery app; default every app that install() is called for.

    Raises:
        InvalidValue: an option has a value that cannot be.
    """
    if callable(name):
        return _made(Executor(name))

    def decorate(function: Callable[P, T]) -> Executor[P, T]:
        return _made(Executor(function, name=name, **options))

    return decorate


def _made(it: Executor[P, T]) -> Executor[P, T]:
    with _lock:
        if it.app is None:
            _known[it.name] = it
        installations = list(_installations)
    if it.app is not None:
        register(it, it.app)
    else:
        for installation in installations:
            register(it, installation.app)
    return it


def register_all(installation: Installation) -> None:
    """install() was called for an app: give it every executor that asked for no other, now and from now on."""
    with _lock:
        _installations.append(installation)
        known = list(_known.values())
    for it in known:
        register(it, installation.app)


def register(it: Executor[..., Any], app: Any) -> None:
    """Make the executor a task of this app. Again, or after a reload of its module, the newest counts."""

    def run(*args: Any, **kwargs: Any) -> Any:
        return it.run(*args, **kwargs)

    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(run, name, getattr(it.function, name))
    found = app._tasks.get(it.name)
    if found is not None and getattr(found, "celeriac_executor", it) is not it:
        del app._tasks[it.name]
    app.task(
        run,
        name=it.name,
        typing=False,
        shared=False,
        celeriac_executor=it,
        time_limit=it.timeout,
        soft_time_limit=it.soft_timeout,
    )
    installation = installation_of(app)
    if installation is not None:
        if it.errors:
            installation.executor_errors[it.name] = it.errors
        if app.finalized:
            adopt(installation, app._tasks[it.name])


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _asks_context(hint: Any) -> bool:
    return hint is Context or Context in typing.get_args(hint)


def _jsonable(value: Any) -> Any:
    return to_jsonable_python(value) if value else value


def _refused(error: type[Any], what: str, problem: ValidationError, phase: str) -> BaseException:
    """A validation error without the values that failed: they may be secret, and long."""
    found = problem.errors(include_url=False, include_input=False, include_context=False)
    told = "; ".join(f"{'.'.join(map(str, it['loc'])) or 'value'}: {it['msg']}" for it in found[:5])
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    raised: BaseException = error(f"{what}: {told}{more}")
    raised.phase = phase  # type: ignore[attr-defined]  # read by endings.error_of
    return raised
