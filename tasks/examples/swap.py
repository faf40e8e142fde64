"""A provider is replaced while runs are in flight: their nodes ask for a capability, which is bound outside of them.

    step 1 -> step 2 -> ... -> step 30        each asks for `generate`

No graph is edited and no process started again. What was sent stays with the first provider; a scheduler reads bindings
every few seconds, so some steps more go there. Nothing runs before somebody has bound the capability, as the demo does:
`celeriac capabilities bind generate swap.provider_a`.
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel

from scheduler import Graph, Node, capability
from scheduler.worker import executor

QUICK = "interactive-low"
CAPABILITY = "generate"
FIRST, SECOND = "swap.provider_a", "swap.provider_b"
RUNS = 3
STEPS = 30
EARLY = 3
"""So many steps of each run have ended when the provider is replaced."""
CALL_SECONDS = 0.2


class Generated(BaseModel):
    """What a provider gives."""

    provider: str
    text: str


def _generated(provider: str, prompt: str) -> Generated:
    time.sleep(CALL_SECONDS)  # as long as a provider would take
    return Generated(provider=provider, text=f"{prompt}, says {provider}")


@executor(FIRST, queue_class=QUICK, timeout=30, purity="pure", capabilities=[CAPABILITY])
def provider_a(prompt: str) -> Generated:
    """The provider that everybody uses."""
    return _generated(FIRST, prompt)


@executor(SECOND, queue_class=QUICK, timeout=30, purity="pure", capabilities=[CAPABILITY])
def provider_b(prompt: str) -> Generated:
    """The one that takes its place."""
    return _generated(SECOND, prompt)


def graph(name: str = "run", steps: int = STEPS) -> Graph:
    """A chain of calls."""
    g = Graph(f"swap-{name}")
    before: tuple[Node[Any], ...] = ()
    for number in range(1, steps + 1):
        before = (g.add(capability(CAPABILITY), prompt=f"part {number}", after=before, key=f"step {number}"),)
    g.returns(*before)
    return g
