"""Branching as it is declared: guards of nodes and of their edges, branches of a choice, stop conditions.

Pure. Checked here by themselves, whether they come from the builder or from a document; how they fit the graph is
checked by guards.py. In a document an expression is text::

    {"key": "publish", "executor": "cms.publish", "when": "score.output.value >= 0.8"}
    {"key": "mail", "executor": "mail.send", "after": [{"node": "page", "when": "page.output.changed"}]}
    {"key": "route", "choice": [{"branch": "good", "when": "score.output.value >= 0.8"}], "otherwise": "poor"}
    {"key": "praise", "executor": "mail.send", "after": [{"node": "route", "branch": "good"}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..core.expressions import Expression
from ..errors import InvalidValue, quoted
from .formulas import formula_of
from .limits import count_of, kind_of, name_of, only_fields
from .waits import Wait

MAX_BRANCHES = 100
MAX_STOPS = 20
MAX_MEMBERS = 1_000
RACE_FIELDS = ("key", "race", "keep", "labels")
OUTCOMES = ("succeeded", "failed")
DEFAULT_OUTCOME = "succeeded"
CHOICE_FIELDS = ("key", "choice", "otherwise", "after", "trigger_rule", "when", "labels")

_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


class Gate(NamedTuple):
    """The guard of the edge from a node: a condition, or a branch that the node must have taken."""

    key: str
    when: Expression | None
    branch: str | None

    def document(self) -> dict[str, str]:
        """As an element of "after"."""
        if self.when is None:
            return {"branch": str(self.branch), "node": self.key}
        return {"node": self.key, "when": self.when.text}


class Branches(NamedTuple):
    """What a choice chooses from: (name, condition) in order, and the name for when none is true."""

    open: tuple[tuple[str, Expression], ...]
    otherwise: str

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, the last one the other."""
        return (*(name for name, _ in self.open), self.otherwise)

    @property
    def text(self) -> str:
        """The field "choice" of the canonical document."""
        return _json([{"branch": name, "when": when.text} for name, when in self.open])


class Race(NamedTuple):
    """A node that keeps the first of some others to succeed, and withdraws the rest."""

    members: tuple[str, ...]
    keep: int


class Branching(NamedTuple):
    """What has a say in a node's start beside its trigger rule."""

    when: Expression | None
    gates: tuple[Gate, ...]
    choice: Branches | None
    wait: Wait | None = None
    race: Race | None = None

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """Those that wait for the nodes they read: the guard of the node and the conditions of its branches."""
        mine = () if self.when is None else (self.when,)
        return mine if self.choice is None else (*mine, *(when for _, when in self.choice.open))


class Stop(NamedTuple):
    """A condition that ends the run, and how it ends then."""

    when: Expression
    outcome: str
    reason: str

    def document(self) -> dict[str, str]:
        """As an element of "stops", defaults left out."""
        found = {"when": self.when.text}
        if self.outcome != DEFAULT_OUTCOME:
            found["outcome"] = self.outcome
        if self.reason:
            found["reason"] = self.reason
        return found

    def record(self) -> dict[str, str]:
        """As the header of a compiled graph holds it."""
        return {"when": self.when.text, "outcome": self.outcome, "reason": self.reason}


def branching(
    when: Expression | None, gates: Iterable[Gate], choice: Branches | None = None, wait: Wait | None = None
) -> Branching | None:
    """All of it together; None for nothing, as most nodes have it."""
    found = Branching(when, tuple(sorted(gates, key=lambda it: it.key)), choice, wait)
    return None if found == _NOTHING else found


_NOTHING = Branching(None, (), None)


def race_of(members: object, keep: object, at: str) -> Race:
    """A race, checked: 1 to 1,000 different members, of which `keep` win.

    Raises:
        InvalidValue: it is not that.
    """
    if not isinstance(members, list | tuple):
        raise InvalidValue(f"{at}.race", members, f"is not a list but {kind_of(members)}", 'Write ["key", ...].')
    found = tuple(name_of(it, f"{at}.race[{i}]") for i, it in enumerate(members))
    if not 1 <= len(found) <= MAX_MEMBERS or len(set(found)) < len(found):
        raise InvalidValue(f"{at}.race", list(found), f"are not 1 to {MAX_MEMBERS} different nodes", "Name each once.")
    return Race(tuple(sorted(found)), count_of(keep, f"{at}.keep", 1, len(found)))


def gates_of(gates: Iterable[Gate], at: str) -> tuple[Gate, ...]:
    """The gates of one node, one an edge.

    Raises:
        InvalidValue: two for one edge.
    """
    found: dict[str, Gate] = {}
    for gate in gates:
        if gate.key in found and found[gate.key] != gate:
            raise InvalidValue(
                at,
                gate.key,
                "has two guards on one edge",
                f'Join them in one condition, such as nodes[{quoted(gate.key)}].output.branch in ["a", "b"].',
            )
        found[gate.key] = gate
    return tuple(found.values())


def gate_of(value: object, at: str) -> Gate:
    """An element of "after" that is an object.

    Raises:
        GraphError: it is not as the schema says.
    """
    if not isinstance(value, Mapping):
        raise InvalidValue(at, value, f"is neither a key nor an object but {kind_of(value)}", 'Write "key".')
    fields = only_fields(value, ("node", "when", "branch"), at)
    if "node" not in fields or ("when" in fields) is ("branch" in fields):
        remedy = 'Write {"node": key, "when": condition} or {"node": key, "branch": name}.'
        raise InvalidValue(at, sorted(fields), "does not name a node and one of when and branch", remedy)
    key = name_of(fields["node"], f"{at}.node")
    if "when" in fields:
        return Gate(key, condition(fields["when"], f"{at}.when"), None)
    return Gate(key, None, name_of(fields["branch"], f"{at}.branch"))


def condition(value: object, at: str) -> Expression:
    """The text of a condition in a document.

    Raises:
        GraphError: it is no text, or cannot be read.
    """
    if not isinstance(value, str):
        raise InvalidValue(at, value, f"is not text but {kind_of(value)}", 'Write a condition: "a.output.x > 1".')
    return formula_of(value, at).expression


def branches_of(choice: object, otherwise: object, at: str) -> Branches:
    """The fields "choice" and "otherwise" of a document.

    Raises:
        GraphError: they are not as the schema says.
    """
    if not isinstance(choice, list | tuple):
        remedy = 'Write [{"branch": "good", "when": "score.output.value > 0.8"}, ...].'
        raise InvalidValue(f"{at}.choice", choice, f"is not a list but {kind_of(choice)}", remedy)
    pairs = []
    for i, one in enumerate(choice):
        place = f"{at}.choice[{i}]"
        if not isinstance(one, Mapping):
            remedy = 'Write {"branch": name, "when": condition}.'
            raise InvalidValue(place, one, f"is not an object but {kind_of(one)}", remedy)
        fields = only_fields(one, ("branch", "when"), place)
        for name in ("branch", "when"):
            if name not in fields:
                raise InvalidValue(f"{place}.{name}", None, "is missing", f"Add the field {name!r}.")
        pairs.append((fields["branch"], condition(fields["when"], f"{place}.when")))
    return branches(pairs, otherwise, at)


def branches(pairs: Iterable[tuple[object, Expression]], otherwise: object, at: str) -> Branches:
    """Branches of a choice, checked: 1 to 100, each name once.

    Raises:
        InvalidValue: they are not that.
    """
    found = Branches(
        tuple((name_of(name, f"{at}.choice[{i}].branch"), when) for i, (name, when) in enumerate(pairs)),
        name_of(otherwise, f"{at}.otherwise"),
    )
    if not 1 <= len(found.open) <= MAX_BRANCHES:
        count = f"{len(found.open)} branches"
        raise InvalidValue(f"{at}.choice", count, f"are not 1 to {MAX_BRANCHES}", "Choose in two steps.")
    for name in found.names:
        if found.names.count(name) > 1:
            raise InvalidValue(f"{at}.choice", name, "is the name of two branches", "Give each its own name.")
    return found


def stops_of(value: object) -> tuple[Stop, ...]:
    """The field "stops" of a document.

    Raises:
        GraphError: it is not as the schema says.
    """
    if not isinstance(value, list | tuple):
        raise InvalidValue("stops", value, f"is not a list but {kind_of(value)}", 'Write [{"when": "..."}, ...].')
    found = []
    for i, one in enumerate(value):
        at = f"stops[{i}]"
        if not isinstance(one, Mapping):
            raise InvalidValue(at, one, f"is not an object but {kind_of(one)}", 'Write {"when": condition}.')
        fields = only_fields(one, ("when", "outcome", "reason"), at)
        if "when" not in fields:
            raise InvalidValue(f"{at}.when", None, "is missing", "Add the field 'when'.")
        when = condition(fields["when"], f"{at}.when")
        found.append(stop(when, fields.get("outcome", DEFAULT_OUTCOME), fields.get("reason", ""), at))
    return checked_stops(found)


def checked_stops(stops: Iterable[Stop]) -> tuple[Stop, ...]:
    """Stop conditions, no more than there may be.

    Raises:
        InvalidValue: there are more.
    """
    found = tuple(stops)
    if len(found) > MAX_STOPS:
        raise InvalidValue("stops", f"{len(found)} conditions", f"are more than {MAX_STOPS}", "Join some by ||.")
    return found


def stop(when: Expression, outcome: object, reason: object, at: str) -> Stop:
    """One stop condition, checked.

    Raises:
        InvalidValue: no outcome, or no reason that can be shown.
    """
    if not isinstance(outcome, str) or outcome not in OUTCOMES:
        raise InvalidValue(f"{at}.outcome", outcome, "is no way to end", f"Write one of {', '.join(OUTCOMES)}.")
    return Stop(when, str.__str__(outcome), "" if reason == "" else name_of(reason, f"{at}.reason"))
