"""What people are asked: one entry for each approval that waits, written when it begins to and removed when it ends.

A list beside the runs, so that who looks for questions need not read all runs; the runs alone decide.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ..core.run import Run
from ..core.waits import Escalation, Wait
from ..wire import RunId
from .runs import Runs


class Question(NamedTuple):
    """An approval that waits for an answer. Instants in ms since 1970, by Redis.

    Attributes:
        number, epoch: of the node, which an answer names.
        due_at_ms: when its time is over; None for never.
        who: names of those who may answer at once; ["*"] is anybody.
        form: JSON Schema of what is to be said besides the choice; None for nothing.
    """

    run: RunId
    graph: str
    node: str
    number: int
    epoch: int
    question: str
    choices: tuple[str, ...]
    who: tuple[str, ...]
    form: Any
    since_ms: int
    due_at_ms: int | None
    escalations: tuple[Escalation, ...]

    def may_answer(self, now_ms: int) -> tuple[str, ...]:
        """Who may answer now, with those to whom it was escalated."""
        late = (it for it in self.escalations if now_ms - self.since_ms >= it.after_ms)
        return tuple(dict.fromkeys((*self.who, *(name for it in late for name in it.to))))


def question_record(run: Run, node: int, wait: Wait) -> bytes:
    """An approval that begins to wait, as it is listed."""
    since = run.created_at_ms + run.parked[node]
    record = {
        "graph": run.name,
        "node": run.keys[node],
        "question": wait.question,
        "choices": wait.choices,
        "who": wait.who,
        "since_ms": since,
        **({} if wait.form is None else {"form": wait.form}),
        **({} if wait.within_ms is None else {"due_at_ms": since + wait.within_ms}),
        **({"escalations": wait.escalations} if wait.escalations else {}),
    }
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def questions(runs: Runs) -> list[Question]:
    """All that wait for an answer, the oldest first. One round trip."""
    with runs.client.pipeline(transaction=False) as pipe:
        for shard in range(runs.shards):
            pipe.hgetall(runs.keys.shard(shard).approvals)
        found = [_question(name, raw) for entries in pipe.execute() for name, raw in entries.items()]
    return sorted(found, key=lambda it: (it.since_ms, it.run, it.number))


def _question(name: bytes, raw: bytes) -> Question:
    run, number, epoch = name.decode().split(" ")
    record = json.loads(raw)
    return Question(
        RunId(run),
        str(record["graph"]),
        str(record["node"]),
        int(number),
        int(epoch),
        str(record["question"]),
        tuple(record["choices"]),
        tuple(record["who"]),
        record.get("form"),
        int(record["since_ms"]),
        record.get("due_at_ms"),
        tuple(Escalation(after, tuple(to)) for after, to in record.get("escalations", ())),
    )
