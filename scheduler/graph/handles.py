"""Handles: what stands for a node, or for a part of its output, while a graph is being written.

Pure. A handle holds no value: the value exists when the run has come that far. So everything that would ask
for one now (`if`, iteration, formatting) raises `HandleMisused` with advice instead of going wrong silently.
Comparison and arithmetic ask for nothing: they write a formula (formulas.py). Handing a handle to another node makes
the edge; see graph.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, Generic, NoReturn, TypeVar

from ..core.expressions import read
from ..core.mappers import mapper_name
from ..errors import HandleMisused, InvalidValue, quoted, shown
from .formulas import Formula, Operators, formula_of
from .limits import MAX_INDEX, MAX_PATH, MAX_STEP

T_co = TypeVar("T_co", covariant=True)

_ADVICE: Final = (
    "Its value exists only when the run has come that far. Hand it to another node as an input and decide there, or "
    "choose by when=, g.choice or trigger_rule whether a node runs."
)


class Reference:
    """One reference as documents hold it: a node's output or error, a path into it, and whether it makes an edge.

    Attributes:
        via: the name of the mapper that the value there goes through; None for none.
    """

    __slots__ = ("_text", "ancestor", "key", "path", "via", "what")

    def __init__(
        self,
        key: str,
        path: tuple[str | int, ...] = (),
        what: str = "output",
        ancestor: bool = False,
        via: str | None = None,
    ) -> None:
        self.key = key
        self.path = path
        self.what = what
        self.ancestor = ancestor
        self.via = via
        self._text: str | None = None

    @property
    def text(self) -> str:
        """Its canonical JSON.

        >>> Reference("front", ("text", 0)).text
        '{"$ref":"front","path":["text",0]}'
        """
        if self._text is None:
            found: dict[str, Any] = {"$ref": self.key}
            if self.ancestor:
                found["ancestor"] = True
            if self.what != "output":
                found["of"] = self.what
            if self.path:
                found["path"] = list(self.path)
            if self.via is not None:
                found["via"] = self.via
            self._text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
        return self._text


class Path(Operators):
    """A part of a node's output (or error record), picked by attribute or index: ``node.out.items[0]["name"]``.

    A field that is named like something here (`of_ancestor`, `via`), or begins with an underscore, is reached by
    ``["name"]``. A path is not hashable, and comparing it writes a formula.
    """

    __slots__ = ("_celeriac_node", "_celeriac_reference")

    def __init__(self, node: Node[Any], reference: Reference) -> None:
        self._celeriac_node = node
        self._celeriac_reference = reference

    def of_ancestor(self) -> Path:
        """The same, but without making an edge: the node must be an ancestor already, checked at compile time."""
        r = self._celeriac_reference
        return type(self)(self._celeriac_node, Reference(r.key, r.path, r.what, True, r.via))

    def via(self, mapper: str) -> Mapped:
        """What a mapper makes of it, as an input of another node: ``node.out.order.via("order_to_invoice@1")``.

        Args:
            mapper: name and version of one that is deployed when the run begins.

        Raises:
            InvalidValue: that is no such name.
        """
        r = self._celeriac_reference
        name = mapper_name(mapper, f"{drawn(r)}.via")
        return Mapped(self._celeriac_node, Reference(r.key, r.path, r.what, r.ancestor, name))

    def __getattr__(self, name: str) -> Path:
        if name.startswith("_"):  # copy, pickle, numpy and others ask for such names and must hear no
            raise AttributeError(f"a path takes {shown(name)} only as an index: [{quoted(name)}]")
        return self[name]

    def __getitem__(self, step: str | int) -> Path:
        r = self._celeriac_reference
        return Path(self._celeriac_node, Reference(r.key, (*r.path, step_of(step, r)), r.what, r.ancestor))

    def __repr__(self) -> str:
        return drawn(self._celeriac_reference)

    def __copy__(self) -> Path:
        return self

    def __deepcopy__(self, memo: object) -> Path:
        return self  # a handle is a name: Celery copies signatures deeply, and the copy must mean the same node

    def _celeriac_formula(self) -> Formula:
        r = self._celeriac_reference
        return Formula(read(r.key, r.what, r.path), self._celeriac_node._graph)

    def _celeriac_refuse(self, *_: object) -> NoReturn:
        raise HandleMisused(f"{drawn(self._celeriac_reference)} stands where Python needs its value. {_ADVICE}")

    __bool__ = __floordiv__ = __rfloordiv__ = __pos__ = __abs__ = _celeriac_refuse
    __len__ = __iter__ = __contains__ = __int__ = __float__ = __index__ = __call__ = _celeriac_refuse
    __str__ = __format__ = _celeriac_refuse


class Mapped(Path):
    """What a mapper makes of a part of a node's output: an input of another node, and nothing else."""

    __slots__ = ()

    def via(self, mapper: str) -> Mapped:
        """Nothing goes through two mappers.

        Raises:
            HandleMisused: always.
        """
        raise self._celeriac_only_input(f"goes through {shown(mapper)} too", "Deploy one mapper that does both.")

    def __getitem__(self, step: str | int) -> Path:
        remedy = "Pick the part before .via(...), or let the mapper give it."
        raise self._celeriac_only_input(f"is to be picked from by {shown(step)}", remedy)

    def _celeriac_formula(self) -> Formula:
        raise self._celeriac_only_input("stands in a condition", "Ask for the output itself, without .via(...).")

    def _celeriac_only_input(self, problem: str, remedy: str) -> HandleMisused:
        said = f"{drawn(self._celeriac_reference)} {problem}"
        return HandleMisused(f"{said}, and what a mapper makes is an input of a node and nothing else. {remedy}")


class Node(Generic[T_co]):
    """A node of a graph that is being written; `Graph.add` makes it. `T_co` is what its executor returns.

    Attributes:
        key: the node's name in the graph.
        decode: makes what its executor declares of the output's JSON, such as a pydantic model; None for plain JSON.
    """

    __slots__ = ("_graph", "_reference", "decode", "key")

    def __init__(self, graph: object, key: str, decode: Callable[[bytes], Any] | None = None) -> None:
        self.key = key
        self.decode = decode
        self._graph = graph
        self._reference = Reference(key)

    @property
    def out(self) -> Path:
        """Its output, to pick a part from: ``node.out.pages[0].url``. The node itself stands for the whole."""
        return Path(self, self._reference)

    def via(self, mapper: str) -> Mapped:
        """What a mapper makes of its output, as an input of another node; see `Path.via`."""
        return self.out.via(mapper)

    @property
    def error(self) -> Path:
        """Its error record (kind, type, message, ...); null when it succeeded. For nodes that mend failures."""
        return Path(self, Reference(self.key, what="error"))

    @property
    def state(self) -> Formula:
        """The word for where it stands, such as "succeeded", "failed" or "skipped", to be compared in a formula."""
        return Formula(read(self.key, "state"), self._graph)

    @property
    def attempts(self) -> Formula:
        """How many attempts it took, to be compared in a formula."""
        return Formula(read(self.key, "attempts"), self._graph)

    def when(self, condition: object) -> Edge:
        """The edge from this node, for `after`: open only if the condition is true when the node has succeeded."""
        return Edge(self, formula_of(condition, f"nodes[{quoted(self.key)}].when", self._graph))

    def fallback(self, executor: Any, /, **options: Any) -> Node[T_co]:
        """Another executor does this node in its place when it has failed for good; see `Graph.fallback`.

        answer = g.add("llm.ask", q=q).fallback("other_llm.ask").fallback("cache.lookup", q=q)
        """
        graph: Any = self._graph
        found: Node[T_co] = graph.fallback(self, executor, **options)
        return found

    def __repr__(self) -> str:
        return f"Node({shown(self.key)})"

    def __copy__(self) -> Node[T_co]:
        return self

    def __deepcopy__(self, memo: object) -> Node[T_co]:
        return self


class Edge:
    """The edge from a node to the one that gets this in `after`, and when it is open.

    Attributes:
        node: where it comes from.
        condition: of the guard, or None.
        branch: which a choice must have taken, or None.
    """

    __slots__ = ("branch", "condition", "node")

    def __init__(self, node: Node[Any], condition: Formula | None = None, branch: str | None = None) -> None:
        self.node = node
        self.condition = condition
        self.branch = branch

    def __repr__(self) -> str:
        how = repr(self.branch) if self.condition is None else self.condition.expression.text
        return f"Edge({shown(self.node.key)}, {how})"


class Choice(Node[dict[str, str]]):
    """A node that chooses one of its branches; `Graph.choice` makes it. Its output is {"branch": name}.

    `route["good"]`, handed to `after`, is the edge that is open when that branch is taken.

    Attributes:
        branches: their names, the last one for when no other is open.
    """

    __slots__ = ("branches",)

    def __init__(self, graph: object, key: str, branches: tuple[str, ...]) -> None:
        super().__init__(graph, key)
        self.branches = branches

    def __getitem__(self, branch: str) -> Edge:
        if branch not in self.branches:
            raise InvalidValue(
                f"nodes[{quoted(self.key)}]", branch, "is no branch of it", f"It has {', '.join(self.branches)}."
            )
        return Edge(self, branch=branch)


def drawn(reference: Reference) -> str:
    """A reference as Python would write it, for messages.

    >>> drawn(Reference("front", ("text", 0, "a b")))
    'nodes["front"].out.text[0]["a b"]'
    """
    steps = (
        f".{p}" if isinstance(p, str) and p.isidentifier() else f"[{p if isinstance(p, int) else quoted(p)}]"
        for p in reference.path
    )
    mark = ".of_ancestor()" if reference.ancestor else ""
    mark += f".via({quoted(reference.via)})" if reference.via is not None else ""
    return f"nodes[{quoted(reference.key)}].{'error' if reference.what == 'error' else 'out'}{''.join(steps)}{mark}"


def step_of(step: object, reference: Reference) -> str | int:
    """One step of a path, checked: a field's name, or an index from 0.

    Raises:
        InvalidValue: anything else, negative indexes and slices included, or too many steps.
    """
    at = drawn(reference)
    remedy = f"Write a field's name (up to {MAX_STEP} characters) or an index from 0."
    if isinstance(step, bool) or not isinstance(step, str | int):
        raise InvalidValue(at, step, "is no step of a path", remedy)
    if len(reference.path) >= MAX_PATH:
        raise InvalidValue(
            at, step, f"is one step more than the {MAX_PATH} that a path may have", "Pick in the executor."
        )
    if isinstance(step, int):
        if not 0 <= step <= MAX_INDEX:
            raise InvalidValue(at, step, "is not an index from 0", remedy)
        return int(step)
    if len(step) > MAX_STEP:
        raise InvalidValue(at, step, "is too long for a field's name", remedy)
    if not step.isascii() and any("\ud800" <= c <= "\udfff" for c in step):
        raise InvalidValue(at, step, "holds half of a surrogate pair", remedy)
    return str.__str__(step)
