"""Pauses that concern many runs: of a graph's name, a queue class, an executor. Kept until they are lifted.

Schedulers read them when their version went up, which costs nothing per node; whoever changes them wakes them all.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from redis.exceptions import NoPermissionError

from .runs import Runs

VERSION = b"version"


class Paused(NamedTuple):
    """One pause.

    Attributes:
        kind: graph, class or executor.  name: of it.
        by, reason: who asked and why; "" when not said.  at_ms: when, by Redis, ms since 1970.
    """

    kind: str
    name: str
    by: str
    reason: str
    at_ms: int

    @property
    def why(self) -> str:
        """In words, for what waits because of it."""
        what = "queue class" if self.kind == "class" else self.kind
        by = f" by {self.by}" if self.by else ""
        return f"the {what} {self.name!r} is paused{by}{f': {self.reason}' if self.reason else ''}"


def pause(runs: Runs, kind: str, name: str, reason: str, by: str) -> bool:
    """Pause a scope; False when it is paused already, and then nothing changes."""
    body = json.dumps({"by": by, "reason": reason, "at_ms": runs.now_ms()}, ensure_ascii=False)
    with runs.client.pipeline(transaction=True) as pipe:  # all of it or nothing, whatever a user of Redis may do
        pipe.hsetnx(runs.keys.paused, f"{kind}:{name}", body.encode("utf-8", "replace"))
        return _changed(runs, pipe)


def resume(runs: Runs, kind: str, name: str) -> bool:
    """Lift a pause; False when there is none."""
    with runs.client.pipeline(transaction=True) as pipe:
        pipe.hdel(runs.keys.paused, f"{kind}:{name}")
        return _changed(runs, pipe)


def paused(runs: Runs) -> list[Paused]:
    """What is paused, by kind and name; nothing for a user of Redis that may not read it (users.acl: client)."""
    try:
        found = runs.client.hgetall(runs.keys.paused)
    except NoPermissionError:
        return []
    pauses = []
    for field, body in found.items():
        if field == VERSION:
            continue
        kind, _, name = field.decode().partition(":")
        it = json.loads(body)
        pauses.append(Paused(kind, name, str(it.get("by", "")), str(it.get("reason", "")), int(it.get("at_ms", 0))))
    return sorted(pauses)


def _changed(runs: Runs, change: Any) -> bool:
    """Make a change, whose command waits in a pipeline, with the version going up; then every scheduler looks."""
    change.hincrby(runs.keys.paused, VERSION, 1)
    changed = bool(change.execute()[0])
    if changed:
        wake(runs)
    return changed


def wake(runs: Runs) -> None:
    """Every scheduler looks at once at what may have changed for all of its runs."""
    with runs.client.pipeline(transaction=False) as pipe:
        for shard in range(runs.shards):
            pipe.execute_command("XADD", runs.keys.shard(shard).inbox, "*", "look", "paused")
        pipe.execute()
