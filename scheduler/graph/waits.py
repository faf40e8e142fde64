"""Waits as they are declared: timers, signals and approvals. Work that waits is in timing.py.

Pure. Checked here by themselves, whether they come from the builder or from a document::

    {"key": "cool down", "wait": {"kind": "timer", "seconds": 600}}
    {"key": "paid", "wait": {"kind": "signal", "name": "payment", "schema": {...}, "within_seconds": 86400}}
    {"key": "review", "wait": {"kind": "approval", "question": "Publish it?", "choices": ["yes", "no"], "who": ["ann"]},
     "inputs": {"text": {"$ref": "draft"}}}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..errors import InvalidValue, quoted
from ..payloads import check_payload, check_schema
from .limits import MIN_SECONDS, kind_of, name_of, only_fields, plain_seconds, seconds_of

WAIT_FIELDS = ("key", "wait", "inputs", "after", "trigger_rule", "when", "labels")
KIND_FIELDS = {
    "timer": ("kind", "seconds", "until"),
    "signal": ("kind", "name", "schema", "transient", "within_seconds", "default"),
    "approval": ("kind", "question", "choices", "form", "who", "within_seconds", "default", "escalate"),
}
MAX_QUESTION = 10_000
MAX_CHOICES = 100
MAX_WHO = 1_000
MAX_ESCALATIONS = 10
DEFAULT_CHOICES = ("approve", "reject")
ANYBODY = ("*",)

_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True)
class Wait:
    """How one node waits, checked already.

    Attributes:
        document: its field "wait" of the canonical document, defaults left out; None for a delay or a job outside.
        record: the same as core/waits.py reads it.
    """

    document: Mapping[str, Any] | None
    record: Mapping[str, Any]

    @property
    def output_schema(self) -> Any:
        """JSON Schema of what the wait gives; None when nobody knows."""
        kind, record = self.record["kind"], self.record
        if kind == "timer":
            return {"type": "object", "properties": {"due_ms": {"type": "integer"}}, "required": ["due_ms"]}
        if kind == "signal":
            return record.get("schema")
        if kind == "approval":
            text = {"type": "string"}
            said = {"choice": {"enum": list(record["choices"])}, "by": text, "comment": text}
            known = {**said, "answer": record.get("form") or {}, "at_ms": {"type": "integer"}}
            return {"type": "object", "properties": known, "required": sorted(known)}
        return None


def timer(seconds: object, until: object, at: str) -> Wait:
    """A node that is over after a time, or at an instant; the later one counts.

    Raises:
        InvalidValue: neither is given, or one is none.
    """
    if seconds is None and until is None:
        raise InvalidValue(at, None, "says neither how long nor until when", 'Write "10m", or until=datetime(...).')
    length = None if seconds is None else seconds_of(seconds, f"{at}.seconds")
    instant = None if until is None else instant_of(until, f"{at}.until")
    document = {"kind": "timer", "seconds": length, "until": instant}
    given = {name: value for name, value in document.items() if value is not None}
    return Wait(given, {"kind": "timer"} | span(length, instant))


def signal(
    name: object,
    at: str,
    *,
    schema: object = None,
    transient: object = False,
    within: object = None,
    default: Any = ...,
) -> Wait:
    """A node that waits for a signal.

    Args:
        default: what stands for a signal that did not come in time; ... for none.

    Raises:
        GraphError: the name, schema or time is none, or the default does not fit.
    """
    if not isinstance(transient, bool):
        raise InvalidValue(f"{at}.transient", transient, f"is not a boolean but {kind_of(transient)}", "Write true.")
    document: dict[str, Any] = {"kind": "signal", "name": name_of(name, f"{at}.name")}
    if schema is not None:
        document["schema"] = check_schema(schema, f"{at}.schema")
    if transient:
        document["transient"] = True
    record = dict(document)
    _limit(document, record, within, at)
    if default is not ...:
        _needs_limit(within, f"{at}.default")
        document["default"] = check_payload(schema, default, f"{at}.default")
        record["default"] = _json(default)
    return Wait(document, record)


def approval(
    question: object,
    at: str,
    *,
    choices: object = DEFAULT_CHOICES,
    form: object = None,
    who: object = ANYBODY,
    within: object = None,
    default: object = None,
    escalate: object = (),
) -> Wait:
    """A node that waits for a person's answer.

    Args:
        default: the choice that stands for an answer that did not come in time.
        escalate: (after, to): pairs of a duration and the names of those who may answer from then on.

    Raises:
        GraphError: something of it is not as it should be.
    """
    if not isinstance(question, str) or not 1 <= len(question) <= MAX_QUESTION:
        remedy = f"Write a question of 1 to {MAX_QUESTION:,} characters."
        raise InvalidValue(f"{at}.question", question, "is no question", remedy)
    found = _names(choices, f"{at}.choices", MAX_CHOICES)
    document: dict[str, Any] = {"kind": "approval", "question": question}
    record: dict[str, Any] = {**document, "choices": found}
    if found != list(DEFAULT_CHOICES):
        document["choices"] = found
    if form is not None:
        document["form"] = record["form"] = check_schema(form, f"{at}.form")
    people = _names(who, f"{at}.who", MAX_WHO)
    if people != list(ANYBODY):
        document["who"] = record["who"] = people
    _limit(document, record, within, at)
    if default is not None:
        _needs_limit(within, f"{at}.default")
        if default not in found:
            raise InvalidValue(f"{at}.default", default, "is no choice", f"Write one of {', '.join(found)}.")
        document["default"] = default
        record["default"] = _json({"choice": default, "by": "", "comment": "", "answer": None, "at_ms": 0})
    if steps := _escalations(escalate, f"{at}.escalate"):
        document["escalate"] = [{"after_seconds": after, "to": to} for after, to in steps]
        record["escalations"] = [[ms(after), to] for after, to in steps]
    return Wait(document, record)


def wait_of(value: object, at: str) -> Wait:
    """The field "wait" of a document.

    Raises:
        GraphError: it is not as the schema says.
    """
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(kind, str) or kind not in KIND_FIELDS:
        remedy = f'Write {{"kind": one of {", ".join(KIND_FIELDS)}, ...}}.'
        raise InvalidValue(at, value if kind is None else kind, "says no way to wait", remedy)
    fields = only_fields(value, KIND_FIELDS[kind], at)
    del fields["kind"]
    for name in ("seconds", "within_seconds"):
        if name in fields:
            fields[name] = plain(fields[name], f"{at}.{name}")
    if kind == "timer":
        return timer(fields.get("seconds"), fields.get("until"), at)
    if "within_seconds" in fields:
        fields["within"] = fields.pop("within_seconds")
    if kind == "signal":
        return signal(fields.pop("name", None), at, **fields)
    if "escalate" in fields:
        fields["escalate"] = _escalations_of(fields["escalate"], f"{at}.escalate")
    return approval(fields.pop("question", None), at, **fields)


def instant_of(value: object, at: str) -> str:
    """An instant as ISO 8601 text with its zone, as a document holds it.

    >>> instant_of("2027-01-01T00:00:00+01:00", "until")
    '2027-01-01T00:00:00+01:00'
    """
    remedy = 'Write a datetime with a zone, such as "2027-01-31T08:00:00+01:00".'
    found = value
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            raise InvalidValue(at, value, "is no instant", remedy) from None
    if not isinstance(found, datetime):
        raise InvalidValue(at, value, f"is no instant but {kind_of(value)}", remedy)
    if found.tzinfo is None:
        raise InvalidValue(at, value, "has no zone, so nobody can tell when it is", remedy)
    return found.isoformat()


def _escalations_of(value: object, at: str) -> list[tuple[float, Any]]:
    """The field "escalate" of a document, as `approval` takes it."""
    if not isinstance(value, list | tuple):
        raise InvalidValue(at, value, f"is not a list but {kind_of(value)}", "Write a list.")
    found = []
    for i, one in enumerate(value):
        place = f"{at}[{i}]"
        if not isinstance(one, Mapping) or set(one) != {"after_seconds", "to"}:
            raise InvalidValue(place, one, "is no escalation", 'Write {"after_seconds": 3600, "to": ["ann"]}.')
        found.append((plain(one["after_seconds"], f"{place}.after_seconds"), one["to"]))
    return found


def _escalations(value: object, at: str) -> list[tuple[float, list[str]]]:
    if not isinstance(value, Iterable) or isinstance(value, str | Mapping):
        raise InvalidValue(at, value, f"is not a list but {kind_of(value)}", 'Write [("1h", ["ann"])].')
    found: list[tuple[float, list[str]]] = []
    for i, one in enumerate(value):
        if not isinstance(one, Sequence) or isinstance(one, str) or len(one) != 2:
            raise InvalidValue(f"{at}[{i}]", one, "is no pair of a duration and names", 'Write ("1h", ["ann"]).')
        found.append((seconds_of(one[0], f"{at}[{i}]"), _names(one[1], f"{at}[{i}]", MAX_WHO)))
    if len(found) > MAX_ESCALATIONS:
        raise InvalidValue(at, f"{len(found)} escalations", f"are more than {MAX_ESCALATIONS}", "Leave some out.")
    return found


def _names(value: object, at: str, most: int) -> list[str]:
    """One to `most` different names."""
    if not isinstance(value, list | tuple):
        raise InvalidValue(at, value, f"is not a list but {kind_of(value)}", 'Write ["name", ...].')
    found = [name_of(one, f"{at}[{i}]") for i, one in enumerate(value)]
    if not 1 <= len(found) <= most or len(set(found)) < len(found):
        raise InvalidValue(at, list(value), f"are not 1 to {most} different names", "Write each once.")
    return found


def _limit(document: dict[str, Any], record: dict[str, Any], within: object, at: str) -> None:
    if within is not None:
        document["within_seconds"] = seconds_of(within, f"{at}.within_seconds")
        record["within_ms"] = ms(document["within_seconds"])


def _needs_limit(within: object, at: str) -> None:
    if within is None:
        raise InvalidValue(at, None, "stands for what does not come in time, and there is no time", "Give within=.")


def span(seconds: float | None, instant: str | None) -> dict[str, int]:
    """How long and until when, as core/waits.py has it."""
    found = {}
    if seconds:
        found["ms"] = ms(seconds)
    if instant:
        found["until_ms"] = round(datetime.fromisoformat(instant).timestamp() * 1000)
    return found


def plain(value: object, at: str) -> float:
    """A duration in a document, longer than nothing."""
    return plain_seconds(value, at, MIN_SECONDS)


def ms(seconds: float) -> int:
    """The same in milliseconds."""
    return max(1, round(seconds * 1000))


def same_signals(waits: Iterable[tuple[str, Wait]]) -> None:
    """Signals of one name are of one schema, and kept or not, wherever the graph waits for them.

    Args:
        waits: (key, wait) of every node that waits.

    Raises:
        InvalidValue: two of them differ.
    """
    known: dict[str, tuple[str, tuple[Any, Any]]] = {}
    for key, wait in waits:
        if wait.record["kind"] == "signal":
            name, says = wait.record["name"], (wait.record.get("schema"), wait.record.get("transient"))
            first, other = known.setdefault(name, (key, says))
            if says != other:
                problem = f"has another schema than at {quoted(first)}, or is kept there and not here"
                raise InvalidValue(f"nodes[{quoted(key)}].wait", name, problem, "Give it another name, or the same.")
