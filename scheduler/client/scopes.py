"""What a person asks of many runs at once: pause and resume a graph, a queue class or an executor; cancel by graph.

Part of Client.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..core.states import ENDED_RUNS
from ..errors import InvalidValue
from ..graph.limits import name_of
from ..store import scopes
from ..store.scopes import Paused
from ..wire import RunId
from .access import Access
from .given import reason_of, who_of

if TYPE_CHECKING:
    from ..settings import Settings

MOST_RUNS = 1_000_000


class Scopes:
    """The requests of a Client that concern many runs."""

    _access: Access
    _settings: Settings | None

    def pause(
        self,
        *,
        graph: str | None = None,
        queue_class: str | None = None,
        executor: str | None = None,
        reason: str = "",
        by: str | None = None,
    ) -> bool:
        """Nothing more is sent of a graph's runs, to a queue class or to an executor, by any scheduler, until `resume`.

        What is out ends and counts; what becomes ready waits, and says why. Runs that are submitted later wait too.

        Args:
            graph, queue_class, executor: the name of exactly one of them.
            reason: up to 2,000 characters.
            by: who asks; None for the user of this process.

        Returns:
            False when it was paused already; then nothing has changed.

        Raises:
            InvalidValue: none or several are named, or no class of that name is declared in the settings.
        """
        kind, name = self._scope(graph, queue_class, executor)
        text, who = reason_of(reason), who_of(by)
        return self._access.reach(lambda: scopes.pause(self._access.runs, kind, name, text, who))

    def resume(self, *, graph: str | None = None, queue_class: str | None = None, executor: str | None = None) -> bool:
        """Lifts a pause; False when there is none. The arguments are those of `pause`."""
        kind, name = self._scope(graph, queue_class, executor)
        return self._access.reach(lambda: scopes.resume(self._access.runs, kind, name))

    def paused(self) -> list[Paused]:
        """What is paused, with who asked and why."""
        return self._access.reach(lambda: scopes.paused(self._access.runs))

    def cancel_runs(self, graph: str, reason: str = "", by: str | None = None) -> list[RunId]:
        """Asks for every run of a graph of this name to stop that has not ended; see RunHandle.cancel.

        Returns:
            Their ids.
        """
        name, text, who = name_of(graph, "graph"), reason_of(reason), who_of(by)

        def ask() -> list[RunId]:
            runs = self._access.runs
            live = runs.newest(limit=MOST_RUNS, ended=False)
            found = [it.id for it in live if it.name == name and it.state not in ENDED_RUNS]
            for run in found:
                runs.cancel(run, text, who)
            return found

        return self._access.reach(ask)

    async def apause(
        self,
        *,
        graph: str | None = None,
        queue_class: str | None = None,
        executor: str | None = None,
        reason: str = "",
        by: str | None = None,
    ) -> bool:
        """`pause` for a coroutine."""
        named = {"graph": graph, "queue_class": queue_class, "executor": executor}
        return await asyncio.to_thread(lambda: self.pause(**named, reason=reason, by=by))

    async def aresume(
        self, *, graph: str | None = None, queue_class: str | None = None, executor: str | None = None
    ) -> bool:
        """`resume` for a coroutine."""
        return await asyncio.to_thread(self.resume, graph=graph, queue_class=queue_class, executor=executor)

    async def apaused(self) -> list[Paused]:
        """`paused` for a coroutine."""
        return await asyncio.to_thread(self.paused)

    async def acancel_runs(self, graph: str, reason: str = "", by: str | None = None) -> list[RunId]:
        """`cancel_runs` for a coroutine."""
        return await asyncio.to_thread(self.cancel_runs, graph, reason, by)

    def _scope(self, graph: str | None, queue_class: str | None, executor: str | None) -> tuple[str, str]:
        given = {"graph": graph, "class": queue_class, "executor": executor}
        named = {kind: name for kind, name in given.items() if name is not None}
        if len(named) != 1:
            problem = "names none" if not named else "names several"
            raise InvalidValue("scope", named, problem, "Name a graph, a queue class or an executor.")
        [(kind, name)] = named.items()
        name_of(name, kind)
        if kind == "class" and self._settings is not None and name not in self._settings.classes:
            known = ", ".join(self._settings.classes)
            raise InvalidValue("class", name, "is no declared queue class", f"Name one of {known}.")
        return kind, name
