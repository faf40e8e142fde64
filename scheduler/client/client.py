"""The client: submit graphs, find runs. Sync, and with an `a` in front for coroutines.

    with Client.from_env() as client:
        run = client.submit(graph, key="digest:2026-11-20", deadline="10m")
        print(run.get(text, timeout=60))

A submit is checked whole before anything is stored, and streams in pages, so a graph may have a hundred thousand
nodes. It is safe to repeat: under the same key always the same run is found. A client is safe to share between threads
and event loops, and holds no connection until it needs one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ..core.states import RunState
from ..errors import RunNotFound
from ..graph import Graph
from ..graph.limits import Duration, name_of
from ..store.approvals import Question
from ..store.summaries import Summary
from ..wire import RunId, is_run_id, run_id_for_key
from .access import Access
from .given import namespace_of, url_of
from .handle import RunHandle
from .outside import complete, open_questions
from .scopes import Scopes
from .submission import Submission, Submitter
from .together import Together

if TYPE_CHECKING:
    from types import TracebackType

    from ..settings import Settings

T = TypeVar("T")

DEFAULT_NAMESPACE, DEFAULT_SHARDS = "cel", 16


class Client(Scopes):
    """One installation, as those see it who submit and wait.

    Args:
        redis_url: of the store; wins over `settings`. With neither, settings are loaded as `from_env` does.
        namespace: first part of every key; wins over `settings`.
        archive_url: where ended runs go that are not in Redis any more; wins over `settings`. Without one they are not
            found.
        settings: where the rest comes from. When given, graphs that name a queue class nobody declared are refused.

    Raises:
        SettingsError: no Redis is named, and none embedded runs here; or the URL or the namespace cannot be.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        namespace: str | None = None,
        archive_url: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        if settings is None and redis_url is None:
            from ..settings import Settings

            settings = Settings.load()
        if namespace is None:
            namespace = DEFAULT_NAMESPACE if settings is None else settings.namespace
        self._settings = settings
        self._access = Access(
            redis_url or url_of(settings),
            namespace_of(namespace),
            DEFAULT_SHARDS if settings is None else settings.shards,
            settings,
            archive_url if archive_url is not None or settings is None else settings.archive,
        )
        self._submitter = Submitter(self._access)

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """A client by the environment (`CELERIAC_REDIS_URL`, ...) and celeriac.toml; `overrides` are settings.

        Raises:
            SettingsError: a setting cannot be used.
        """
        from ..settings import Settings

        return cls(settings=Settings.load(**overrides))

    @property
    def namespace(self) -> str:
        """First part of every key of this installation."""
        return self._access.namespace

    def __repr__(self) -> str:
        return f"Client({self._access.shown_url!r}, namespace={self.namespace!r})"

    # --- submit ------------------------------------------------------------------------------------------

    def submit(
        self,
        graph: Graph | Mapping[str, Any],
        *,
        key: str | None = None,
        labels: Mapping[str, str] | None = None,
        correlation_id: str | None = None,
        deadline: Duration | None = None,
        priority: int = 0,
        check: bool = True,
    ) -> RunHandle:
        """Makes a run of a graph. Returns when it is stored; everything is checked before anything is.

        Args:
            graph: a `Graph`, or a document as Python values; for text there are Graph.from_json and Graph.from_yaml.
            key: idempotency key. The same key and graph find the same run, however often they are submitted, also when
                it was archived meanwhile, as long as the key is remembered (key_retention_seconds).
            labels: names and texts to find the run by, up to 64.
            correlation_id: your own id, handed to every executor.
            deadline: seconds, "10m" or a timedelta from now, by when the run has ended or fails.
            priority: -9 to 9: whose ready nodes are sent first within a queue class. Those of runs with a lower one
                wait as long as those of runs with a higher one are ready.
            check: compare with what workers have published (executors, versions, inputs, outputs) and with the
                declared classes, and record the versions; False submits what no worker knows yet, and the nodes wait
                for one.

        Raises:
            GraphError: the graph or an argument cannot be used; says where and why. Nothing is stored.
            KeyReused: the key belongs to a run of another graph.
            StoreFull: Redis has no room for another run (see the setting memory_guard). Nothing is stored.
            StoreUnreachable: no answer, also not when asked again. Whether the run is stored is then unknown; repeating
                the call with the same key is harmless.
        """
        given = Submission(graph, key, labels, correlation_id, deadline, priority)
        return self._submitter.send(self._submitter.prepare(given, check))

    async def asubmit(
        self,
        graph: Graph | Mapping[str, Any],
        *,
        key: str | None = None,
        labels: Mapping[str, str] | None = None,
        correlation_id: str | None = None,
        deadline: Duration | None = None,
        priority: int = 0,
        check: bool = True,
    ) -> RunHandle:
        """`submit` for a coroutine, in a thread, because compiling is work. Cancelling it takes nothing back."""
        return await asyncio.to_thread(
            self.submit,
            graph,
            key=key,
            labels=labels,
            correlation_id=correlation_id,
            deadline=deadline,
            priority=priority,
            check=check,
        )

    def submit_many(
        self, graphs: Iterable[Submission | Graph | Mapping[str, Any]], *, check: bool = True
    ) -> list[RunHandle]:
        """Makes a run of each graph; small ones by hundreds in one round trip. Each is a run of its own, as if it had
        been submitted alone, and everything about all of them is checked before the first is stored.

        Args:
            graphs: each as for `submit`, or a `Submission` where its run is to have a key, labels and so on.
            check: see `submit`; what workers have published is read once for all.

        Returns:
            The runs, in the order of the graphs.

        Raises:
            GraphError: one cannot be used; a note says which. Nothing is stored.
            NotAllSubmitted: some are not stored, or it is unknown; it has the runs that are. Repeating the call is
                harmless where all have keys.
            StoreUnreachable: no answer before the first was sent.
        """
        return self._submitter.send_many(self._submitter.prepare_many(graphs, check))

    async def asubmit_many(
        self, graphs: Iterable[Submission | Graph | Mapping[str, Any]], *, check: bool = True
    ) -> list[RunHandle]:
        """`submit_many` for a coroutine, in a thread, because compiling is work. Cancelling it takes nothing back."""
        return await asyncio.to_thread(self.submit_many, graphs, check=check)

    # --- runs --------------------------------------------------------------------------------------------

    def run(self, id: str) -> RunHandle:
        """The handle of a run by its id. Asks nothing: whether it is there shows when the handle is used.

        Raises:
            RunNotFound: that is not the form of a run's id.
        """
        if not is_run_id(str(id)):
            raise RunNotFound(str(id))
        return RunHandle(self._access, RunId(id))

    def run_of(self, key: str) -> RunHandle:
        """The handle of the run that was, or would be, submitted under an idempotency key."""
        return RunHandle(self._access, run_id_for_key(self.namespace, name_of(key, "key")))

    def runs(self, *, limit: int = 100, live: bool = True, ended: bool = True) -> list[Summary]:
        """The newest runs, newest first.

        Args:
            limit: at most so many.
            live: those that have not ended.  ended: those that have.
        """
        return self._access.reach(lambda: self._access.runs.newest(limit=limit, live=live, ended=ended))

    async def aruns(self, *, limit: int = 100, live: bool = True, ended: bool = True) -> list[Summary]:
        """`runs` for a coroutine."""
        return await asyncio.to_thread(self.runs, limit=limit, live=live, ended=ended)

    def wait_many(self, runs: Iterable[RunHandle], timeout: Duration | None = None) -> list[RunState]:
        """Blocks until all of these runs have ended, and says how each did, in their order.

        Those that have ended by then cost one question for all of them, however many they are.

        Args:
            runs: of this client.
            timeout: seconds, "10m" or a timedelta, for all of them together; None waits for ever.

        Raises:
            WaitTimeout, RunNotFound, RunLost, StoreUnreachable: of one of them, see RunHandle.wait.
        """
        return Together(self._access, runs, timeout).result()

    async def await_many(
        self,
        runs: Iterable[RunHandle],
        timeout: Duration | None = None,  # noqa: ASYNC109  a parameter like its twin's
    ) -> list[RunState]:
        """`wait_many` for a coroutine."""
        return await Together(self._access, runs, timeout).aresult()

    # --- what waits for somebody ---------------------------------------------------------------------------

    def approvals(self) -> list[Question]:
        """What people are asked and have not answered, the oldest first; `run(id).answer(node, choice)` answers."""
        return open_questions(self._access)

    async def aapprovals(self) -> list[Question]:
        """`approvals` for a coroutine."""
        return await asyncio.to_thread(self.approvals)

    def complete(self, token: str, output: Any = None, *, error: Mapping[str, Any] | None = None) -> None:
        """Ends a job that an attempt has begun and that somebody outside does (`Timing(outside=...)`).

        Returns when it is stored. A job that has ended already, or was begun anew since, stays as it is.

        Args:
            token: the attempt's id, which its executor knows as `scheduler.worker.attempt().id`.
            output: any JSON value up to 256 KB: the node's output.
            error: instead of an output: {"kind", "type", "message"}; the node's retry policy has its say.

        Raises:
            InvalidValue: the token is none, the output too large, or the error's kind unknown.
            StoreUnreachable: no answer.
        """
        complete(self._access, token, output, None if error is None else dict(error))

    async def acomplete(self, token: str, output: Any = None, *, error: Mapping[str, Any] | None = None) -> None:
        """`complete` for a coroutine."""
        await asyncio.to_thread(self.complete, token, output, error=error)

    # --- life --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes its connections. A client that is used again opens new ones."""
        self._access.close()

    async def aclose(self) -> None:
        """`close` for a coroutine; closes what this event loop has open too."""
        await self._access.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
