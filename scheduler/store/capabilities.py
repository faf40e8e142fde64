"""Capabilities and tools: what a node may ask for instead of an executor, and which executor it is bound to now.

Bindings of both stand in one table, those of tools by the name that documents write: "tool:search@2".
An operator binds and unbinds; schedulers read all of it again only when its version has gone up, so a binding changes
for runs in flight, and no node costs a read. Every change is kept with who made it and why, the newest HISTORY of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import NoPermissionError

from .keys import Keys

HISTORY = 1_000
"""Changes of bindings that are kept."""


class Binding(NamedTuple):
    """Which executor does what asks for a capability.

    Attributes:
        by, reason: who bound it and why, "" when that is not known.
        at_ms: since when, by Redis; 0 for what configuration says.
    """

    executor: str
    by: str = ""
    reason: str = ""
    at_ms: int = 0

    @property
    def words(self) -> str:
        """The rule that names it, as the log has it."""
        if not self.at_ms:
            return "by configuration"
        return f"bound{f' by {self.by}' if self.by else ''}{f': {self.reason}' if self.reason else ''}"


class Change(NamedTuple):
    """One change of a binding, of a capability or a tool, as it is kept. `executor` is "" when it was unbound."""

    capability: str
    executor: str
    by: str
    reason: str
    at_ms: int


class Capabilities:
    """The bindings of one installation.

    Args:
        client: of this process.  namespace: which installation.
        default: capability -> executor, as configured; what is bound here counts before it.
    """

    def __init__(self, client: Redis, namespace: str, default: Mapping[str, str] | None = None) -> None:
        self._client: Any = client  # redis-py types a reply as str or bytes; without decode_responses it is bytes
        self._keys = Keys(namespace)
        self._default = {name: Binding(executor) for name, executor in (default or {}).items()}

    def bindings(self) -> dict[str, Binding]:
        """Capability, or tool as documents write it -> binding."""
        stored = self._client.hgetall(self._keys.capabilities)
        return self._default | {name.decode(): _binding(raw) for name, raw in stored.items()}

    def visible(self) -> dict[str, Binding] | None:
        """The same, or None for a user of Redis that may not read them (config/users.acl: client)."""
        try:
            return self.bindings()
        except NoPermissionError:
            return None

    def bind(self, capability: str, executor: str, by: str = "", reason: str = "") -> None:
        """From now on nodes that ask for it go to this executor; what has been sent stays where it is."""
        now = self._now_ms()
        value = json.dumps({"executor": executor, "by": by, "reason": reason, "at_ms": now}, ensure_ascii=False)
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hset(self._keys.capabilities, capability, value.encode("utf-8", "replace"))
            self._note(pipe, Change(capability, executor, by, reason, now))

    def unbind(self, capability: str, by: str = "", reason: str = "") -> bool:
        """What configuration says counts again, else nothing is bound; False when nothing was bound here."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hdel(self._keys.capabilities, capability)
            found = self._note(pipe, Change(capability, "", by, reason, self._now_ms()))
        return bool(found[0])

    def history(self, limit: int = HISTORY) -> list[Change]:
        """Changes, the newest first."""
        found = map(json.loads, self._client.lrange(self._keys.capabilities_history, 0, limit - 1))
        return [Change(**{name: it[name] for name in Change._fields}) for it in found]

    def _note(self, pipe: Any, change: Change) -> list[Any]:
        """The change into the history, all of it at once."""
        pipe.lpush(
            self._keys.capabilities_history,
            json.dumps(change._asdict(), ensure_ascii=False).encode("utf-8", "replace"),
        )
        pipe.ltrim(self._keys.capabilities_history, 0, HISTORY - 1)
        pipe.incr(self._keys.capabilities_version)
        found: list[Any] = pipe.execute()
        return found

    def _now_ms(self) -> int:
        seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000


def _binding(raw: bytes) -> Binding:
    """A stored binding; fields of later versions are ignored."""
    record = json.loads(raw)
    return Binding(**{name: record[name] for name in Binding._fields if name in record})
