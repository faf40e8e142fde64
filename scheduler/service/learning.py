"""What holds for all runs, and what workers announce: read from the store when it has changed."""

from __future__ import annotations

import time
from typing import Any

from ..settings import Settings
from ..store import policies, scopes
from ..store.capabilities import Capabilities
from ..store.changed import Changed, changed
from .dispatch import Dispatch
from .owned import Owned

CONTRACTS_SECONDS = 0.5
"""How often to look for new contracts while nodes wait for one."""
WORKERS_SECONDS = 2.0
"""How often to read what workers announce, while anything waits to be sent."""


class Learning:
    """Contracts, bindings, pauses and policies for dispatch, and the slots of workers.

    Args:
        client: for everything but blocking reads.
        dispatch: learns.
        owned: whose runs take up a policy.

    Attributes:
        look_at: of this process's clock, seconds: when to look again whether anything has changed.
    """

    def __init__(self, settings: Settings, client: Any, dispatch: Dispatch, owned: Owned) -> None:
        self.look_at = 0.0
        self._settings = settings
        self._client = client
        self._dispatch = dispatch
        self._owned = owned
        self._seen = Changed()
        self._workers_at = 0.0

    def begin(self) -> None:
        """With a new connection and nothing in memory."""
        self.look_at = 0.0
        self._seen = Changed()

    def look_again(self) -> None:
        """Look before anything else is done."""
        self.look_at = 0.0

    def look(self) -> None:
        """Read what holds for all runs when it has changed; more often while nodes wait for a contract."""
        runs, dispatch = self._owned.runs, self._dispatch
        before, self._seen = self._seen, changed(runs)
        if self._seen[:2] != before[:2]:
            bindings = Capabilities(self._client, runs.namespace, self._settings.capabilities).bindings()
            dispatch.admission.learn(runs.contracts(), bindings)
            dispatch.more = True
        if self._seen.pauses != before.pauses:
            dispatch.admission.heed({(it.kind, it.name): it.why for it in scopes.paused(runs)})
            dispatch.more = True
        if self._seen.policies != before.policies:
            dispatch.policies.learn(runs, policies.current)
            for held in self._owned.held.values():
                held.to_adopt.extend(held.runs)
        pause = CONTRACTS_SECONDS if dispatch.admission.waits() else self._settings.shard_lease_seconds / 3
        self.look_at = time.monotonic() + pause

    def hear_workers(self) -> None:
        """What workers announce, while anything waits to be sent: their slots, and whether they take bundles. Then the
        store is told how long attempts take.
        """
        dispatch, now = self._dispatch, time.monotonic()
        if now >= self._workers_at and dispatch.admission.busy():
            self._workers_at = now + WORKERS_SECONDS
            runs = self._owned.runs
            dispatch.admission.bundling.hear(runs.workers(), runs.now_ms())
            if news := dispatch.admission.bundling.news():
                runs.tell_paces(news)
