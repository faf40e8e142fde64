"""What the store's record of a run says at a glance: a row of every list of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..core.run import Act
from ..core.states import RunState
from ..wire import RunId


@dataclass(frozen=True, slots=True)
class Summary:
    """A run as a list shows it. Instants in ms since 1970; None when it did not come to that.

    Attributes:
        hash: of its graph.  graph_version: that the graph says, None for none.
        versions: executor -> {"version": ..., "contract": hash}, as they were when the run was submitted; without
            "version" if it had none. Only executors that the graph names and that were known then.
        policy: version of the policy that the run has taken up; None for none.
    """

    id: RunId
    name: str
    state: RunState
    reason: str
    nodes: int
    created_at_ms: int
    ended_at_ms: int | None
    deadline_at_ms: int | None
    progress: dict[str, int]
    labels: dict[str, str]
    correlation_id: str | None
    key: str | None
    hash: str
    priority: int = 0
    acts: tuple[Act, ...] = ()
    graph_version: str | None = None
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    policy: str | None = None


def summary_of(run: RunId, fields: Mapping[bytes, bytes]) -> Summary:
    """The summary of a run, of the hash that holds it."""

    def text(name: bytes) -> str | None:
        return fields[name].decode() if name in fields else None

    def number(name: bytes) -> int | None:
        return int(fields[name]) if name in fields else None

    progress = json.loads(fields.get(b"progress", b"{}"))
    created = int(fields[b"created_at_ms"])
    deadline = number(b"deadline_ms")
    return Summary(
        run,
        fields[b"name"].decode(),
        RunState(fields[b"state"].decode()),
        text(b"reason") or "",
        int(fields[b"nodes"]),
        created,
        number(b"ended_at_ms"),
        None if deadline is None else created + deadline,
        progress,
        json.loads(fields.get(b"labels", b"{}")),
        text(b"correlation_id"),
        text(b"key"),
        fields[b"hash"].decode(),
        number(b"priority") or 0,
        tuple(map(Act.from_record, json.loads(fields.get(b"acts", b"[]")))),
        text(b"graph_version"),
        json.loads(fields.get(b"versions", b"{}")),
        text(b"policy_version"),
    )
