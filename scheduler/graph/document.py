"""Graph documents: from JSON, YAML or a dict to declared nodes.

Pure. Checks every node by itself, duplicates included; how nodes hang together is checked by compile.py.
Whatever is handed over, the only error that comes out is a `GraphError`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from ..errors import DuplicateNode, InvalidValue, TooLarge, UnreadableDocument, escaped, quoted, shown
from ..versions import asked_of
from .branching import (
    CHOICE_FIELDS,
    RACE_FIELDS,
    Branching,
    Gate,
    Stop,
    branches_of,
    branching,
    condition,
    gate_of,
    gates_of,
    race_of,
    stops_of,
)
from .capability import executor_of
from .inputs import NO_INPUTS, Inputs
from .limits import MAX_NODES, MIN_SECONDS, check_limits, kind_of, name_of, only_fields, plain_seconds
from .policy import DEFAULT_RETRY, DEFAULT_RULE, Policy, Retry, choice_policy, rule_of
from .spec import FORMAT, Spec, after_of, labels_of
from .timing import NO_TIMING, Timing
from .values import Walk, kwargs_of
from .waits import WAIT_FIELDS, wait_of

GRAPH_FIELDS = ("celeriac", "name", "nodes", "returns", "stops", "version")
NODE_FIELDS = (
    "key",
    "executor",
    "executor_version",
    "args",
    "inputs",
    "after",
    "trigger_rule",
    "retry",
    "timeout_seconds",
    "soft_timeout_seconds",
    "queue_class",
    "labels",
    "when",
    "timing",
)


_FORMS = {
    "choice": (CHOICE_FIELDS, ("key", "choice", "otherwise")),
    "wait": (WAIT_FIELDS, ("key", "wait")),
    "race": (RACE_FIELDS, ("key", "race")),
}
"""Nodes that are no work: by the field that tells, the fields that they may have and those that they must."""


class Parsed(NamedTuple):
    """A document, read."""

    name: str
    specs: dict[str, Spec]
    returns: str | None
    stops: tuple[Stop, ...]
    version: str | None


def text_of(given: object, language: str) -> str:
    """The text of a document handed over as text or as UTF-8 bytes, with or without a byte order mark.

    Raises:
        UnreadableDocument: not UTF-8, or neither text nor bytes.
    """
    if isinstance(given, bytes | bytearray):
        try:
            return bytes(given).decode("utf-8-sig")
        except UnicodeDecodeError as broken:
            raise UnreadableDocument(f"byte {broken.start} is not UTF-8", remedy="Save it as UTF-8.") from None
    if not isinstance(given, str):
        raise UnreadableDocument(
            f"{shown(given)} is not text but {kind_of(given)}", remedy=f"Hand over {language} text."
        )
    return given


def from_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        UnreadableDocument: not UTF-8, not JSON, NaN or Infinity in it, a key twice in one object, too deep.
    """
    try:
        return json.loads(text_of(text, "JSON"), object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as broken:
        raise UnreadableDocument(
            f"it is not JSON: {broken.msg}", line=broken.lineno, column=broken.colno, remedy="Correct it there."
        ) from None
    except UnreadableDocument:
        raise
    except RecursionError:
        raise UnreadableDocument("it is nested too deeply", remedy="Flatten it.") from None
    except ValueError as broken:  # an integer of more digits than Python reads
        raise UnreadableDocument(escaped(str(broken), 200), remedy="Pass such a number as text.") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [k for k, _ in pairs]
        twice = next(k for k in found if keys.count(k) > 1)
        raise UnreadableDocument(f"an object has the key {shown(twice)} twice", remedy="Keep one of the two.")
    return found


def _constant(word: str) -> NoReturn:
    raise UnreadableDocument(f"{word} is not JSON", remedy="Write null or text.")


def parse(document: object) -> Parsed:
    """A document as Python values, read and checked node by node. O(size).

    Raises:
        GraphError: anything in it is not as the published schema (schema.py) and the limits say.
    """
    if not isinstance(document, Mapping):
        raise InvalidValue(
            "the graph document",
            document,
            f"is not an object but {kind_of(document)}",
            'Write {"celeriac": 1, "name": ..., "nodes": [...]}.',
        )
    fields = only_fields(document, GRAPH_FIELDS, "")
    _required(fields, ("celeriac", "name", "nodes"), "")
    version = fields["celeriac"]
    if isinstance(version, bool) or not isinstance(version, int | float) or version != FORMAT:
        raise InvalidValue("celeriac", version, "is not a version of this format", f"Write {FORMAT}.")
    name = name_of(fields["name"], "name")
    nodes = fields["nodes"]
    if not isinstance(nodes, list | tuple):
        raise InvalidValue("nodes", nodes, f"is not a list but {kind_of(nodes)}", 'Write [{"key": ...}, ...].')
    if not nodes:
        raise InvalidValue("nodes", list(nodes), "holds no node", "Add at least one node.")
    check_count(len(nodes))
    specs: dict[str, Spec] = {}
    policies: dict[Policy, Policy] = {}
    for i, node in enumerate(nodes):
        spec = _node(node, i, policies)
        if spec.key in specs:
            raise DuplicateNode(spec.key, at=f"nodes[{i}].key")
        specs[spec.key] = spec
    returns = fields.get("returns")
    stops = stops_of(fields["stops"]) if "stops" in fields else ()
    its_version = name_of(fields["version"], "version") if fields.get("version") is not None else None
    return Parsed(name, specs, None if returns is None else name_of(returns, "returns"), stops, its_version)


def check_count(nodes: int) -> None:
    """Whether a graph may have so many nodes.

    Raises:
        TooLarge: it may not.
    """
    if nodes > MAX_NODES:
        raise TooLarge(
            "nodes", size=nodes, limit=MAX_NODES, unit="nodes", remedy="Submit several runs, or let one node do more."
        )


def _required(fields: Mapping[str, Any], names: tuple[str, ...], at: str) -> None:
    for name in names:
        if name not in fields:
            raise InvalidValue(f"{at}{'.' if at else ''}{name}", None, "is missing", f"Add the field {name!r}.")


def _node(node: object, index: int, policies: dict[Policy, Policy]) -> Spec:
    at = f"nodes[{index}]"
    if not isinstance(node, Mapping):
        raise InvalidValue(at, node, f"is not an object but {kind_of(node)}", 'Write {"key": ..., "executor": ...}.')
    known, required = next((it for name, it in _FORMS.items() if name in node), (NODE_FIELDS, ("key", "executor")))
    fields = only_fields(node, known, at)
    _required(fields, required, at)
    key = name_of(fields["key"], f"{at}.key")
    at = f"nodes[{quoted(key)}]"
    if "race" in fields:
        return _race(key, fields, at, policies)
    choice = branches_of(fields["choice"], fields["otherwise"], at) if "choice" in fields else None
    wait = wait_of(fields["wait"], f"{at}.wait") if "wait" in fields else None
    args = fields.get("args", ())
    if not isinstance(args, list | tuple):
        raise InvalidValue(f"{at}.args", args, f"is not a list but {kind_of(args)}", "Write [value, ...].")
    kwargs = kwargs_of(fields.get("inputs", {}), f"{at}.inputs")
    inputs = Walk(key, None).inputs(args, kwargs) if args or kwargs else NO_INPUTS
    retry, steps = _retry(fields, key, at, args, kwargs)
    works = choice is None and wait is None
    policy = _policy(fields, at, retry) if works else choice_policy(_rule(fields, at))
    policy = policies.setdefault(policy, policy)
    keys, gates = _after(fields.get("after", ()), f"{at}.after")
    when = condition(fields["when"], f"{at}.when") if "when" in fields else None
    labels = labels_of(fields["labels"], f"{at}.labels") if "labels" in fields else None
    wait = wait or policy.timing.wait
    says = branching(when, gates_of(gates, f"{at}.after"), choice, wait)
    return Spec(key, policy, inputs, after_of(keys), labels, says, steps)


def _race(key: str, fields: Mapping[str, Any], at: str, policies: dict[Policy, Policy]) -> Spec:
    """A node that keeps the first of some others to succeed."""
    race = race_of(fields["race"], fields.get("keep", 1), at)
    policy = choice_policy(f"quorum({race.keep})")
    labels = labels_of(fields["labels"], f"{at}.labels") if "labels" in fields else None
    says = Branching(None, (), None, None, race)
    return Spec(key, policies.setdefault(policy, policy), NO_INPUTS, race.members, labels, says)


def _after(after: object, at: str) -> tuple[list[str], list[Gate]]:
    """Keys of the nodes that end first, and the guards of edges from them."""
    if not isinstance(after, list | tuple):
        raise InvalidValue(at, after, f"is not a list but {kind_of(after)}", 'Write ["key", ...].')
    keys, gates = [], []
    for i, one in enumerate(after):
        if isinstance(one, Mapping):
            gates.append(gate_of(one, f"{at}[{i}]"))
            keys.append(gates[-1].key)
        else:
            keys.append(name_of(one, f"{at}[{i}]"))
    return keys, gates


def _rule(fields: Mapping[str, Any], at: str) -> str:
    return rule_of(fields.get("trigger_rule", DEFAULT_RULE), f"{at}.trigger_rule")


def _retry(
    fields: Mapping[str, Any], key: str, at: str, args: Any, kwargs: Mapping[str, Any]
) -> tuple[Retry, tuple[Inputs | None, ...]]:
    """The retry policy, and the inputs of its steps."""
    retry = Retry.from_document(fields["retry"], f"{at}.retry") if "retry" in fields else DEFAULT_RETRY
    return retry.bound(key, None, args, kwargs) if retry.steps else (retry, ())


def _policy(fields: Mapping[str, Any], at: str, retry: Retry) -> Policy:
    hard = fields.get("timeout_seconds")
    hard = None if hard is None else plain_seconds(hard, f"{at}.timeout_seconds", MIN_SECONDS)
    soft = fields.get("soft_timeout_seconds")
    soft = None if soft is None else plain_seconds(soft, f"{at}.soft_timeout_seconds", MIN_SECONDS)
    check_limits(hard, soft, f"{at}.soft_timeout_seconds")
    queue_class, version = fields.get("queue_class"), fields.get("executor_version")
    return Policy(
        executor=executor_of(fields["executor"], f"{at}.executor"),
        rule=_rule(fields, at),
        retry=retry,
        queue_class=None if queue_class is None else name_of(queue_class, f"{at}.queue_class"),
        timeout_seconds=hard,
        soft_timeout_seconds=soft,
        timing=Timing.from_document(fields["timing"], f"{at}.timing") if "timing" in fields else NO_TIMING,
        executor_version=None if version is None else asked_of(version, f"{at}.executor_version"),
    )
