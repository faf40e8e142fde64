"""How a node waits without a worker: for an instant, a signal, a person, or a job that somebody outside ends.

Pure data, as the compiled graph holds it; what happens with it is in waiting.py. A node may wait in five ways: `timer`,
`signal` and `approval` are all that the node is, and their output is what they waited for; `delay` puts work off until
its instant; `outside` follows work, whose worker has begun a job elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

MOST_SIGNALS = 1_000
"""Signals that one run takes, those that nobody has waited for yet among them."""
KINDS = ("timer", "delay", "signal", "approval", "outside")


class Escalation(NamedTuple):
    """Who else may answer an approval, and after how long."""

    after_ms: int
    to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """How a node waits, as the compiled graph says. Spans in ms, instants in ms since 1970.

    Attributes:
        kind: timer, delay, signal, approval or outside.
        ms, until_ms: of a timer or delay: how long, or until when; the later one counts.
        name: of the signal.
        transient: the signal is lost when nobody waits for it at that moment.
        within_ms: how long it may wait; None is for ever.
        default: raw JSON that stands for what did not come in time; None fails the node then.
        question, choices, form, who, escalations: of an approval: what is asked, what may be answered, the JSON Schema
            of what is said besides, who may answer ("*": anybody), and who else later.
        schema: JSON Schema of the signal's payload.
    """

    kind: str
    ms: int = 0
    until_ms: int | None = None
    name: str = ""
    transient: bool = False
    within_ms: int | None = None
    default: str | None = None
    question: str = ""
    choices: tuple[str, ...] = ()
    form: Any = None
    who: tuple[str, ...] = ("*",)
    escalations: tuple[Escalation, ...] = ()
    schema: Any = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Wait:
        """Read a wait of a compiled graph; fields of later versions are ignored."""
        known: dict[str, Any] = {it.name: record[it.name] for it in fields(cls) if it.name in record}
        for name in ("choices", "who"):
            if name in known:
                known[name] = tuple(known[name])
        if "escalations" in known:
            known["escalations"] = tuple(Escalation(after, tuple(to)) for after, to in known["escalations"])
        return cls(**known)

    @property
    def puts_off(self) -> bool:
        """Whether it begins by waiting for an instant."""
        return self.kind in ("timer", "delay") or bool(self.ms or self.until_ms)

    def due_ms(self, now: int) -> int:
        """When a timer or delay that begins now is over."""
        return max(now + self.ms, self.until_ms or 0)

    def may_answer(self, by: str, waited_ms: int) -> bool:
        """Whether somebody may answer an approval that has waited so long."""
        who = (*self.who, *(name for it in self.escalations if waited_ms >= it.after_ms for name in it.to))
        return "*" in who or by in who


class Signal(NamedTuple):
    """A signal that a run has taken.

    Attributes:
        id: of the entry of the inbox that brought it; the same entry again is the same signal.
        key: idempotency key; a second one of the same key is refused. "" for none.
        payload: raw JSON.
        taken: (node, epoch) whose wait it ended; None while it waits for one.
    """

    id: str
    name: str
    key: str
    by: str
    payload: bytes
    taken: tuple[int, int] | None = None
