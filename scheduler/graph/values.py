"""From values to inputs: the walk over what a user handed over, which finds references and refuses what is no JSON.

Pure. One walk serves both ways of writing: the builder's values hold handles and tuples, a document's values
hold ``{"$ref": ...}`` and ``{"$literal": {...}}``. What comes out (inputs.py) is the same, so the two compile alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..core.mappers import mapper_name
from ..errors import GraphError, HandleMisused, InvalidValue, NotJson, TooLarge, did_you_mean, quoted, shown
from .handles import Node, Path, Reference, step_of
from .inputs import GAP, GAP_JSON, RESERVED, Inputs, Place, Trail, to_json
from .limits import MAX_DEPTH, MAX_NODE_BYTES, MAX_PATH, kind_of, name_of
from .secret import Secret, secret_name

_REFERENCE_FIELDS = ("$ref", "path", "of", "ancestor", "via")
_LITERAL_REMEDY = 'Write {"$literal": {...}} around an object that is meant as it stands.'


class Walk:
    """One walk over the args and kwargs of a node.

    Args:
        node: its key, for places in errors.
        graph: the builder whose handles may stand in the values; None for a document, which has none.
    """

    __slots__ = ("graph", "node", "quoting", "references", "secrets")

    def __init__(self, node: str, graph: object | None) -> None:
        self.node = node
        self.graph = graph
        self.references: list[Reference] = []
        self.secrets: list[Place] = []
        self.quoting = False

    def inputs(self, args: Any, kwargs: Mapping[str, Any]) -> Inputs:
        """Both as text.

        Raises:
            GraphError: a value that is not JSON, too deep or too large; a malformed or foreign reference.
        """
        plain_args: list[Any] = []
        if args:
            plain_args = [self.value(v, (None, "args", i), 1) for i, v in enumerate(args)]
        plain: dict[str, Any] = {}
        # references are kept in the order of the text, and the text has its keys sorted
        for name in kwargs if len(kwargs) < 2 else sorted(kwargs):
            value = kwargs[name]
            kind = type(value)
            if kind is str or kind is int or kind is bool or value is None:
                plain[name] = value
            elif kind is Node and value._graph is self.graph:
                self.references.append(value._reference)
                plain[name] = GAP
            else:
                plain[name] = self.value(value, (None, "inputs", name), 1)
        try:
            args_text = to_json(plain_args) if plain_args else "[]"
            kwargs_text = to_json(plain) if plain else "{}"
        except (ValueError, RecursionError) as refused:
            raise self._not_json(plain_args, plain) from refused
        self._check_text(args_text, kwargs_text, plain_args, plain)
        return Inputs(args_text, kwargs_text, tuple(self.references), self.quoting, tuple(self.secrets))

    def value(self, value: Any, trail: Trail, depth: int) -> Any:
        """The value as the JSON encoder takes it, with gaps for references, which are collected on the way."""
        kind = type(value)
        if kind is str or kind is int or kind is bool or kind is float or value is None:
            return value
        if depth > MAX_DEPTH:
            raise InvalidValue(
                self.place(trail), value, f"is nested deeper than {MAX_DEPTH} levels", "Flatten it, or pass it as text."
            )
        if kind is dict or isinstance(value, Mapping):
            return self._object(value, trail, depth)
        if isinstance(value, list | tuple):
            return [self.value(v, (trail, i), depth + 1) for i, v in enumerate(value)]
        if isinstance(value, Node | Path):
            return self._handle(value, trail)
        if kind is Secret and self.graph is not _NO_GRAPH:
            return self._secret(value.name, trail)
        if isinstance(value, str):  # subclasses, such as members of a StrEnum, as what they are underneath
            return str.__str__(value)
        if isinstance(value, int):
            return int.__int__(value)
        if isinstance(value, float):
            return float.__float__(value)
        raise NotJson(self.place(trail), value, f"is {kind_of(value)}, which JSON cannot carry", _remedy_for(value))

    def _object(self, value: Mapping[Any, Any], trail: Trail, depth: int) -> Any:
        for key in value:
            if not isinstance(key, str):
                raise NotJson(
                    self.place(trail), key, f"is a key of an object and {kind_of(key)}", "Keys of objects are text."
                )
        if "$ref" in value or "$literal" in value or "$secret" in value:
            if self.graph is None:
                return self._form(value, trail, depth)
            self.quoting = True
            found = len(self.references) + len(self.secrets)
            plain = self._fields(value, trail, depth)
            if len(self.references) + len(self.secrets) > found:
                raise HandleMisused(
                    f"{self.place(trail)}: an object with one of the keys {', '.join(RESERVED)} is taken as it stands "
                    "and cannot hold a handle or a Secret. Give that as an input of its own.",
                    at=self.place(trail),
                )
            return plain
        return self._fields(value, trail, depth)

    def _form(self, value: Mapping[str, Any], trail: Trail, depth: int) -> Any:
        """What an object of a document with a reserved key stands for."""
        if "$ref" in value:
            return self._reference(value, trail)
        if "$literal" in value:
            return self._literal(value, trail, depth)
        if len(value) != 1:
            raise InvalidValue(
                self.place(trail), dict(value), "is no secret", f'Write {{"$secret": "name"}}. {_LITERAL_REMEDY}'
            )
        return self._secret(secret_name(value["$secret"], f'{self.place(trail)}["$secret"]'), trail)

    def _secret(self, name: str, trail: Trail) -> dict[str, str]:
        """The reference to a secret as it travels; its place is noted, for nothing else tells it from a literal."""
        steps: list[str | int] = []
        while trail is not None:
            steps.append(trail[-1])
            if len(trail) == 3:
                steps.append(int(trail[1] != "args"))
            trail = trail[0]
        self.secrets.append(tuple(reversed(steps)))
        return {"$secret": name}

    def _fields(self, value: Mapping[str, Any], trail: Trail, depth: int) -> dict[str, Any]:
        return {str.__str__(k): self.value(value[k], (trail, k), depth + 1) for k in sorted(value)}

    def _literal(self, value: Mapping[str, Any], trail: Trail, depth: int) -> Any:
        """The object inside ``{"$literal": {...}}``, every part of it as it stands."""
        inner = value["$literal"]
        if len(value) != 1 or not isinstance(inner, Mapping):
            raise InvalidValue(self.place(trail), dict(value), "is not a literal object", _LITERAL_REMEDY)
        self.quoting = True
        verbatim = Walk(self.node, graph=_NO_GRAPH)  # its objects with "$ref" are objects, not references
        return verbatim._fields(inner, (trail, "$literal"), depth)

    def _reference(self, value: Mapping[str, Any], trail: Trail) -> str:
        """The gap for ``{"$ref": key, "path": [...], "of": "output" | "error", "ancestor": true, "via": mapper}``."""
        at = self.place(trail)
        for name in value:
            if name not in _REFERENCE_FIELDS:
                raise InvalidValue(
                    at,
                    name,
                    "is not a field of a reference",
                    f"Known are {', '.join(_REFERENCE_FIELDS)}.{did_you_mean(name, _REFERENCE_FIELDS)} "
                    + _LITERAL_REMEDY,
                )
        key = name_of(value["$ref"], lambda: f'{at}["$ref"]')
        what = value.get("of", "output")
        if what not in ("output", "error") or not isinstance(what, str):
            raise InvalidValue(f'{at}["of"]', what, "is no part of a node", 'Write "output" or "error".')
        ancestor = value.get("ancestor", False)
        if not isinstance(ancestor, bool):
            raise InvalidValue(f'{at}["ancestor"]', ancestor, "is not a boolean", "Write true or false.")
        steps = value.get("path", [])
        if not isinstance(steps, list | tuple):
            raise InvalidValue(f'{at}["path"]', steps, f"is not a list but {kind_of(steps)}", 'Write ["field", 0].')
        if len(steps) > MAX_PATH:
            raise InvalidValue(f'{at}["path"]', steps, f"has more than {MAX_PATH} steps", "Pick in the executor.")
        reference = Reference(key, (), what, ancestor)
        path = []
        for i, step in enumerate(steps):
            try:
                whole = int(step) if isinstance(step, float) and step.is_integer() else step
                path.append(step_of(whole, reference))
            except InvalidValue as refused:
                raise InvalidValue(f'{at}["path"][{i}]', step, refused.problem, refused.remedy) from None
        via = mapper_name(value["via"], f'{at}["via"]') if "via" in value else None
        self.references.append(Reference(key, tuple(path), what, ancestor, via))
        return GAP

    def _handle(self, handle: Node[Any] | Path, trail: Trail) -> str:
        if isinstance(handle, Node):
            node, reference = handle, handle._reference
        else:
            node, reference = handle._celeriac_node, handle._celeriac_reference
        if self.graph is None:
            raise NotJson(
                self.place(trail), node, "is a handle in a document", 'Write {"$ref": key}, or use Graph.add.'
            )
        if node._graph is not self.graph:
            raise HandleMisused(
                f"{self.place(trail)}: node {shown(node.key)} belongs to another graph. Add it to this graph, and hand "
                "over the handle that this returns.",
                at=self.place(trail),
            )
        self.references.append(reference)
        return GAP

    def place(self, trail: Trail) -> str:
        """The place in words of the document: ``nodes["load"].inputs["rows"][3]``."""
        steps: list[str] = []
        while trail is not None:
            step = trail[-1]
            steps.append(f"[{step}]" if isinstance(step, int) else f"[{quoted(step)}]")
            if len(trail) == 3:
                steps.append(f".{trail[1]}")
            trail = trail[0]
        return f"nodes[{quoted(self.node)}]{''.join(reversed(steps))}"

    def _check_text(self, args: str, kwargs: str, plain_args: list[Any], plain: dict[str, Any]) -> None:
        """Lone surrogates and the size of the whole."""
        references = self.references
        literal = text = args + kwargs if args != "[]" else kwargs
        if references:
            parts = text.split(GAP_JSON)
            literal = "".join(parts)
            if len(parts) != len(references) + 1:
                raise self._not_json(plain_args, plain)
        size = len(literal)
        if not literal.isascii():
            try:
                size = len(literal.encode())
            except UnicodeEncodeError as refused:
                raise self._not_json(plain_args, plain) from refused
        if size + 2_000 * len(references) > MAX_NODE_BYTES:
            size += sum(len(r.text.encode()) for r in references)
            if size > MAX_NODE_BYTES:
                raise TooLarge(
                    f"nodes[{quoted(self.node)}]",
                    size=size,
                    limit=MAX_NODE_BYTES,
                    unit="bytes",
                    what="args and inputs",
                    remedy="Store large data elsewhere and pass its address, or let a node produce it.",
                )

    def _find(self, value: Any, trail: Trail) -> GraphError | None:
        if value is GAP or isinstance(value, bool) or value is None:
            return None
        if isinstance(value, str):
            return _text_problem(value, lambda: self.place(trail))
        if isinstance(value, int | float):
            return _number_problem(value, lambda: self.place(trail))
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(step, str) and (problem := _text_problem(step, lambda: self.place(trail))):
                return problem
            if problem := self._find(inner, (trail, step)):
                return problem
        return None

    def _not_json(self, args: list[Any], kwargs: dict[str, Any]) -> GraphError:
        """Finds what the encoder refused; slow, and only asked when there is something to find."""
        for i, value in enumerate(args):
            if problem := self._find(value, (None, "args", i)):
                return problem
        for name, value in kwargs.items():
            if problem := _text_problem(name, lambda: f"nodes[{quoted(self.node)}].inputs"):
                return problem
            if problem := self._find(value, (None, "inputs", name)):
                return problem
        raise AssertionError("the encoder refused a value in which nothing is wrong")


_NO_GRAPH = object()


def _text_problem(text: str, at: Callable[[], str]) -> GraphError | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return NotJson(at(), text, "holds half of a surrogate pair", "Write whole Unicode characters.")
    return None


def _number_problem(value: Any, at: Callable[[], str]) -> GraphError | None:
    try:
        to_json(value)
    except ValueError:
        if isinstance(value, float):
            return NotJson(
                at(), value, "is not a finite number", "JSON has no NaN and no infinity; write null or text."
            )
        return InvalidValue(at(), value, "is an integer of too many digits", "Pass it as text.")
    return None


def _remedy_for(value: object) -> str:
    if hasattr(value, "model_dump"):
        return 'Pass value.model_dump(mode="json").'
    if isinstance(value, set | frozenset):
        return "Pass sorted(value), or list(value)."
    if isinstance(value, bytes | bytearray):
        return "Decode it, or pass base64 text."
    if hasattr(value, "isoformat"):
        return "Pass value.isoformat()."
    if hasattr(value, "tolist"):
        return "Pass value.tolist()."
    return "Pass text, numbers, booleans, None, lists and dicts of these, or handles of nodes."


def kwargs_of(value: object, at: str) -> Mapping[str, Any]:
    """The mapping given as inputs, its names checked to be text."""
    if not isinstance(value, Mapping):
        raise InvalidValue(at, value, f"is not an object but {kind_of(value)}", 'Write {"name": value}.')
    for name in value:
        if not isinstance(name, str):
            raise NotJson(at, name, f"is a key of an object and {kind_of(name)}", "Names of inputs are text.")
    return value
