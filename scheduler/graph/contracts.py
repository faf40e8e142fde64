"""Published contracts: may this executor get these inputs, and can its output have that path?

Pure. Contracts are what workers publish per executor: JSON Schemas of input and output. What a schema does not
say is allowed; what it says is taken at its word, with one exception: an object that lists properties and is
silent about others has no others, for the models that schemas are made from drop them.
Understood: type, properties, required, additionalProperties, patternProperties, items, prefixItems, maxItems, enum,
const, anyOf, oneOf, allOf and local $ref. Everything else is left to the worker, which validates in full.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ..core.expressions.schemas import branches as branches_of
from ..core.expressions.schemas import mapping, resolved
from ..errors import InputMismatch, PathNotInOutput, VersionMismatch, did_you_mean, shown
from ..versions import fits, version_of
from .handles import Reference
from .inputs import GAP, Inputs, Trail
from .limits import kind_of
from .offers import able, check_known
from .rungs import StepWalk
from .secret import SecretText
from .values import Walk

Schema = Any
"""A JSON Schema: a mapping or a boolean. It came over the wire, so anything else is taken as "says nothing"."""

Problem = tuple[Trail, str]
"""Where, and what."""

_MAX_STEPS = 100_000
_MAX_LEVELS = 100


class PathProblem(NamedTuple):
    """Why an output cannot have a path."""

    step: int
    problem: str
    remedy: str

    def error(self, at: str, reference: Reference, executor: str) -> PathNotInOutput:
        """The same for one reference."""
        return PathNotInOutput(
            at,
            node=reference.key,
            executor=executor,
            path=reference.path,
            step=self.step,
            problem=self.problem,
            remedy=self.remedy,
        )


class Contracts:
    """Contracts by executor name; answers about paths are remembered, since graphs repeat them.

    Args:
        contracts: executor -> contract.
        shapes: name of a mapper -> what comes out of it, with `GAP` for what nobody knows.
    """

    def __init__(
        self, contracts: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._contracts = contracts
        self._shapes = shapes
        self._takes: dict[str, list[_Takes]] = {}
        self._paths: dict[tuple[str, tuple[str | int, ...]], PathProblem | None] = {}

    def check_executor(self, executor: str, at: str) -> None:
        """Whether some worker has it.

        Raises:
            UnknownExecutor: none has; UnknownTool for a tool.
        """
        check_known(self._contracts, executor, at)

    def check_version(self, executor: str, asked: str, at: str) -> None:
        """Whether the executor, or some that has the capability or tool, is of the version that a node asks for.

        Raises:
            VersionMismatch: none is.
        """
        names = able(self._contracts, executor)
        found = [version_of(self._contracts[name]) for name in names]
        if not any(fits(version, asked) for version in found):
            raise VersionMismatch(names[0], found[0], at, asked=asked)

    def outputs(self, executor: str) -> list[Any]:
        """Output schemas of the executors that may do it, None for unknown; of a capability of all that have it."""
        return [self._contracts.get(name, {}).get("output_schema") for name in able(self._contracts, executor)]

    def path_problem(self, executor: str, path: tuple[str | int, ...]) -> PathProblem | None:
        """Why the executor's output cannot have the path; None when it can, or nobody knows."""
        asked = (executor, path)
        if asked not in self._paths:
            self._paths[asked] = self._no_path(able(self._contracts, executor), path)
        return self._paths[asked]

    def _no_path(self, executors: Sequence[str], path: tuple[str | int, ...]) -> PathProblem | None:
        """Why none of these has an output with the path; which of them is bound shows when the node is sent."""
        first = None
        for executor in executors:
            schema = self._contracts.get(executor, {}).get("output_schema")
            problem = None if schema is None else _path_problem(schema, path)
            if problem is None:
                return None
            first = first or problem
        return first

    def check_inputs(self, executor: str, inputs: Inputs, node: str, step: int | None = None) -> None:
        """Whether literal inputs agree with the executor's input schema; references may be anything, but for the names
        of the fields that a mapper gives.

        Args:
            node, step: whose inputs they are: of a node, or of a step of its ladder.

        Raises:
            InputMismatch: a missing or unknown name, or a value of the wrong type.
        """
        takes = self._takes.get(executor)
        if takes is None:
            takes = self._takes[executor] = self._schemas(executor)
        if not takes:
            return
        kwargs, positional = inputs.values(self._shapes), inputs.args != "[]"
        first: InputMismatch | None = None
        for it in takes:
            try:
                _Inputs(node, step, it.executor, it.root).check(it, kwargs, positional)
            except InputMismatch as problem:
                first = first or problem
            else:
                return
        if first is not None:
            raise first

    def _schemas(self, executor: str) -> list[_Takes]:
        """What the executors that may do it take; [] when one of them may take anything."""
        names = able(self._contracts, executor)
        schemas = [self._contracts[name].get("input_schema") for name in names]
        found = [_takes(name, it) for name, it in zip(names, schemas, strict=True) if isinstance(it, Mapping)]
        return found if len(found) == len(names) else []


class _Takes(NamedTuple):
    """What an executor takes, read from its schema once for all nodes that have it.

    Attributes:
        root: its whole input schema.
        properties: name -> schema of an input.
        closed: there are no others.
        required: names that must be handed over.
    """

    executor: str
    root: Mapping[str, Any]
    properties: Mapping[str, Any]
    closed: bool
    required: tuple[str, ...]


def _takes(executor: str, root: Mapping[str, Any]) -> _Takes:
    schema = resolved(root, root)
    properties = mapping(schema, "properties")
    patterns = "patternProperties" in schema
    extra = schema.get("additionalProperties", not (bool(properties) and not patterns))
    required = schema.get("required")
    names = tuple(it for it in required if isinstance(it, str)) if isinstance(required, list) else ()
    return _Takes(executor, root, properties, extra is False and not patterns, names)


def check_output(node: str, executor: str, contract: Mapping[str, Any], value: Any) -> None:
    """Whether a value can be the output of an executor, as far as its published contract says.

    Raises:
        InputMismatch: it cannot; names the part that is wrong.
    """
    schema = contract.get("output_schema")
    if isinstance(schema, Mapping):
        _Inputs(node, None, executor, schema).output(value)


class _Inputs:
    """One check of one node's inputs, or of a value that is to be its output."""

    def __init__(self, node: str, step: int | None, executor: str, root: Mapping[str, Any]) -> None:
        self.node = node
        self.step = step
        self.executor = executor
        self.root = root
        self.left = _MAX_STEPS

    def _place(self, trail: Trail) -> str:
        walk = Walk(self.node, None) if self.step is None else StepWalk(self.node, None, self.step)
        return walk.place(trail)

    def output(self, value: Any) -> None:
        """Whether a whole value is what the schema wants."""
        if problem := self._problem(self.root, value, (None, "output"), 0):
            where, text = problem
            remedy = "Give an output that the executor could give."
            raise InputMismatch(self._place(where), executor=self.executor, problem=text, remedy=remedy)

    def check(self, takes: _Takes, kwargs: Mapping[str, Any], positional: bool) -> None:
        """Whether the executor takes these keyword arguments; what is positional may be any of those missing."""
        properties = takes.properties
        for name, value in kwargs.items():
            trail = (None, "inputs", name)
            if name in properties:
                self._value(properties[name], value, trail)
            elif takes.closed:
                raise InputMismatch(
                    self._place(trail),
                    executor=self.executor,
                    problem=f"there is no input {shown(name)}",
                    remedy=f"Known are {', '.join(map(shown, sorted(properties))) or 'none'}."
                    + did_you_mean(name, properties),
                )
        for name in () if positional else takes.required:
            if name not in kwargs:
                raise InputMismatch(
                    f"{self._place(None)}.inputs",
                    executor=self.executor,
                    problem=f"the input {shown(name)} is missing",
                    remedy=f"Hand over {shown(name)}, a value or a node.",
                )

    def _value(self, schema: Schema, value: Any, trail: Trail) -> None:
        problem = self._problem(schema, value, trail, 0)
        if problem:
            where, text = problem
            raise InputMismatch(
                self._place(where),
                executor=self.executor,
                problem=text,
                remedy="Correct the value, or the mapper that gives it, or pass a node.",
            )

    def _problem(self, schema: Schema, value: Any, trail: Trail, depth: int) -> Problem | None:
        """Where and why a literal value is not what the schema wants; a gap may become anything."""
        self.left -= 1
        if value == GAP or depth > _MAX_LEVELS or self.left < 0:
            return None
        problems: list[Problem] = []
        near: list[Problem] = []
        branches = branches_of(schema, self.root)
        for branch in branches:
            problem = self._branch_problem(branch, value, trail, depth)
            if problem is None:
                return None
            problems.append(problem)
            if _types(branch) & _type_of(value):
                near.append(problem)
        if len(problems) == 1:
            return problems[0]
        if len(near) == 1:  # one alternative has the right type, so its complaint is the useful one
            return near[0]
        wanted = " or ".join(sorted(set().union(*(_types(b) for b in branches)))) or "one of the alternatives"
        found = "a secret is text" if isinstance(value, SecretText) else f"{shown(value)} is {kind_of(value)}"
        return trail, f"{found}, not {wanted}"

    def _branch_problem(self, schema: Mapping[str, Any], value: Any, trail: Trail, depth: int) -> Problem | None:
        if schema.get("not") == {}:
            return trail, "nothing may stand there"
        types = _types(schema)
        if types and not types & _type_of(value):
            if isinstance(value, SecretText):
                return trail, f"a secret is text, not {' or '.join(sorted(types))}"
            return trail, f"{shown(value)} is {kind_of(value)}, not {' or '.join(sorted(types))}"
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        scalar = not isinstance(value, dict | list | SecretText)  # which text a secret is shows on the worker
        if isinstance(choices, list) and scalar and not any(_same(value, c) for c in choices):
            return trail, f"{shown(value)} is not one of {', '.join(map(shown, choices[:20]))}"
        for part in schema["allOf"] if isinstance(schema.get("allOf"), list) else []:
            if problem := self._problem(part, value, trail, depth + 1):
                return problem
        if isinstance(value, dict):
            return self._object_problem(schema, value, trail, depth)
        if isinstance(value, list):
            return self._list_problem(schema, value, trail, depth)
        return None

    def _list_problem(self, schema: Mapping[str, Any], value: list[Any], trail: Trail, depth: int) -> Problem | None:
        for i, inner in enumerate(value):
            found, text = _item(schema, {"array"}, i)
            if text:
                return (trail, i), text
            if problem := self._problem(found, inner, (trail, i), depth + 1):
                return problem
        return None

    def _object_problem(
        self, schema: Mapping[str, Any], value: Mapping[str, Any], trail: Trail, depth: int
    ) -> Problem | None:
        required = schema.get("required")
        for name in required if isinstance(required, list) else []:
            if isinstance(name, str) and name not in value:
                return trail, f"the field {shown(name)} is missing"
        properties = mapping(schema, "properties")
        others = schema.get("additionalProperties", True)
        for name, inner in value.items():
            if name in properties:
                wanted = properties[name]
            elif "patternProperties" in schema:
                continue
            elif others is False:
                known = ", ".join(map(shown, sorted(properties)))
                return (trail, name), f"there is no field {shown(name)} beside {known or 'none'}"
            else:
                wanted = others
            if problem := self._problem(wanted, inner, (trail, name), depth + 1):
                return problem
        return None


def _path_problem(schema: Schema, path: Sequence[str | int]) -> PathProblem | None:
    """Follows all alternatives step by step; a problem where none is left."""
    current = branches_of(schema, schema)
    for number, step in enumerate(path):
        following: list[Schema] = []
        problems: list[str] = []
        names: set[str] = set()
        for branch in current:
            found, problem = _step(branch, step)
            names.update(k for k in mapping(branch, "properties"))
            if problem:
                problems.append(problem)
            else:
                following.append(found)
        if not following:
            # of "null has no fields" and "there is no such field" the second helps
            problem = max(problems, key=lambda p: p.startswith("there is")) if problems else "there is nothing"
            remedy = ""
            if isinstance(step, str) and names:
                listed = ", ".join(shown(n) for n in sorted(names)[:20])
                remedy = f"Its fields are {listed}.{did_you_mean(step, sorted(names))}"
            return PathProblem(number, problem, remedy)
        current = branches_of({"anyOf": following}, schema)
    return None


def _step(schema: Mapping[str, Any], step: str | int) -> tuple[Schema, str]:
    """What stands one step into a value of this schema, or why nothing can."""
    if schema.get("not") == {}:
        return {}, "nothing can stand there"
    if "allOf" in schema:
        return {}, ""  # every part may forbid; the worker will say
    types = _types(schema)
    if isinstance(step, str):
        return _field(schema, types, step)
    return _item(schema, types, step)


def _types(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that a value may have; empty when the schema does not say."""
    said = schema.get("type")
    if isinstance(said, str):
        return {said}
    if isinstance(said, list):
        return {t for t in said if isinstance(t, str)}
    if "const" in schema:
        return _type_of(schema["const"])
    if isinstance(schema.get("enum"), list):
        return set().union(*(_type_of(v) for v in schema["enum"]))
    return set()


def _type_of(value: Any) -> set[str]:
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    if isinstance(value, float):
        return {"number", "integer"} if value.is_integer() else {"number"}
    if isinstance(value, str):
        return {"string"}
    return {"array"} if isinstance(value, list | tuple) else {"object"}


def _field(schema: Mapping[str, Any], types: set[str], name: str) -> tuple[Schema, str]:
    if types and "object" not in types:
        return {}, f"{' or '.join(sorted(types))} has no field {shown(name)}"
    properties = mapping(schema, "properties")
    if name in properties:
        return properties[name], ""
    patterns = mapping(schema, "patternProperties")
    for pattern, inner in patterns.items():
        try:
            if re.search(pattern, name):
                return inner, ""
        except re.error:
            return {}, ""
    others = schema.get("additionalProperties", not properties or bool(patterns))
    return (others, "") if others is not False else ({}, f"there is no field {shown(name)}")


def _item(schema: Mapping[str, Any], types: set[str], index: int) -> tuple[Schema, str]:
    if types and "array" not in types:
        return {}, f"{' or '.join(sorted(types))} has no item {index}"
    most = schema.get("maxItems")
    if isinstance(most, int) and index >= most:
        return {}, f"there is no item {index} in a list of at most {most}"
    first = schema.get("prefixItems")
    if isinstance(first, list) and index < len(first):
        return first[index], ""
    rest = schema.get("items", True)
    return (rest, "") if rest is not False else ({}, f"there is no item {index}")


def _same(value: Any, choice: Any) -> bool:
    """Equality of JSON, where true is not 1."""
    return value == choice and isinstance(value, bool) == isinstance(choice, bool)
