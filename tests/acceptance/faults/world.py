"""What goes on around a run while it runs: signals, an answer, cancels of single nodes, as the client makes them.

Everything is said again until it was acknowledged, as a client does that must be heard; some of it once more
afterwards, which has to change nothing, or to be refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from scheduler import AnswerRefused, CeleriacError, RequestRefused, RunError, RunHandle, StoreError, WaitTimeout

from .checksum import checksum
from .plan import APPROVED, APPROVER, Act, Plan

PAUSE_SECONDS = 0.3
"""Between two tries."""
ANSWER_SECONDS = 10.0
"""How long to wait for a scheduler before it is asked again."""


class World:
    """Acts in a thread of its own until all is done or the run has ended.

    Attributes:
        wrong: what it was told that cannot be, in sentences.
    """

    def __init__(self, plan: Plan, handle: RunHandle, over: Callable[[], bool]) -> None:
        self.wrong: list[str] = []
        self._plan = plan
        self._handle = handle
        self._over = over
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._act, name=f"acts on {handle.id}", daemon=True)
        self._thread.start()

    def _act(self) -> None:
        """One thing after the other; an answer before its question is put off, for others need not wait for it."""
        acts = list(self._plan.extras.acts)
        while acts and not self._over():
            act = acts.pop(0)
            if (wait := self._began + act.at - time.monotonic()) > 0:
                time.sleep(min(wait, PAUSE_SECONDS))  # until its instant
                acts.insert(0, act)
                continue
            try:
                done = {"cancel": self._cancel, "signal": self._signal, "answer": self._answer}[act.what](act)
            except (StoreError, WaitTimeout):
                done = False
            except RunError:
                done = True  # the run has ended, or the node without it
            if not done:
                time.sleep(PAUSE_SECONDS)
                acts.insert(len(acts) if act.what == "answer" else 0, act)

    def _cancel(self, act: Act) -> bool:
        with suppress(RequestRefused):  # it has ended, or the same was asked before and the answer was lost
            self._handle.cancel("enough", APPROVER, nodes=[act.node], timeout=ANSWER_SECONDS)
        return True

    def _signal(self, act: Act) -> bool:
        name = self._plan.extras.waits[act.node].name
        for _ in range(2 if act.twice else 1):
            self._handle.signal(name, checksum(act.node, ()), key=act.node, by=APPROVER)
        return True

    def _answer(self, act: Act) -> bool:
        try:
            self._handle.answer(act.node, APPROVED, by=APPROVER, timeout=ANSWER_SECONDS)
        except AnswerRefused:
            self._handle.get(act.node, PAUSE_SECONDS)  # answered before, or never asked; else it raises WaitTimeout
            return True
        if act.twice:
            try:
                self._handle.answer(act.node, "reject", by=APPROVER, timeout=ANSWER_SECONDS)
            except CeleriacError:
                return True
            self.wrong.append(f"{act.node} was answered, and then another answer was taken")
        return True
