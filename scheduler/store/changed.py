"""What holds for all runs, and how often it has changed: one question a look, however much there is to look at."""

from __future__ import annotations

from typing import Any, NamedTuple

from .policies import CHANGES
from .runs import Runs
from .scopes import VERSION


class Changed(NamedTuple):
    """How often each has changed; what has not changed need not be read."""

    contracts: int = -1
    bindings: int = -1
    pauses: int = -1
    policies: int = -1


def changed(runs: Runs) -> Changed:
    """As it stands now: one round trip."""
    keys = runs.keys
    with runs.client.pipeline(transaction=False) as pipe:
        pipe.get(keys.executors_version)
        pipe.get(keys.capabilities_version)
        pipe.hget(keys.paused, VERSION)
        pipe.hget(keys.policies, CHANGES)
        counts: list[Any] = pipe.execute()
    return Changed(*(int(it or 0) for it in counts))
