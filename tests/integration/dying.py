"""A scheduler in a process of its own that kills itself at a chosen instant: python -m tests.integration.dying JSON.

The product knows nothing of this: the transport and `send_commits` are wrapped here.

    url, namespace, shards, lease   as in Settings
    dies       "before a commit" | "within a commit" | "after a commit" | "after publishing" | "never"; of retention:
               "reading" | "before renaming" | "archived" | "before removal" | "after removal" | "within sweep" |
               "before the last"
    nth        at which commit, publication, or instant of that name, counted from 1
    retention  settings of ended runs, see settings_for
    counts     a file: what the scheduler counted, written at a clean exit
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from redis import Redis

from scheduler.archive import places
from scheduler.service import dispatch, overdue, owned, retention
from scheduler.service.loop import Scheduler
from scheduler.service.transport import Outgoing, RedisTransport
from scheduler.store import commits, ended, scripts
from scheduler.store.commits import Commit, send_commits
from scheduler.store.ended import EndedRuns
from scheduler.store.scripts import COMMIT
from tests.integration.stage import settings_for


class Death:
    """Kills the process at the nth time that an instant of its kind is passed."""

    def __init__(self, dies: str, nth: int) -> None:
        self.dies = dies
        self.left = nth

    def at(self, instant: str) -> None:
        """It is that instant."""
        if instant == self.dies:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)

    def send_commits(self, client: Redis, batch: Sequence[Commit]) -> list[int]:
        """As the product's, with death before, within and after."""
        self.at("before a commit")
        if self.dies == "within a commit" and self.left == 1:
            commits._ARGUMENTS_PER_CALL = 1
            calls = [call for commit in batch for call in commit.calls()]
            for keys, arguments in calls[: len(calls) // 2]:
                COMMIT(client, keys, arguments)
        self.at("within a commit")
        refused = send_commits(client, batch)
        self.at("after a commit")
        return refused

    def lie_in_wait(self) -> None:
        """At the instants of retention."""
        pieces, write, forget, sweep, fsync = (
            EndedRuns.pieces,
            places.Folder.write,
            ended.forget,
            scripts.SWEEP,
            os.fsync,
        )

        def reading(*given: Any) -> Iterator[Any]:
            for piece in pieces(*given):
                self.at("reading")
                yield piece

        def fsynced(number: int) -> None:
            self.at("before renaming")
            fsync(number)

        def written(*given: Any) -> None:
            write(*given)
            self.at("archived")

        def forgotten(*given: Any) -> list[str]:
            self.at("before removal")
            answers = forget(*given)
            self.at("after removal")
            return answers

        def swept(client: Redis, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
            self.at("within sweep" if len(keys) > 2 else "before the last")
            return sweep(client, keys, arguments)

        EndedRuns.pieces = reading  # type: ignore[method-assign, assignment]
        places.Folder.write = written  # type: ignore[method-assign, assignment]
        retention.forget = forgotten  # type: ignore[attr-defined, assignment]
        ended.SWEEP = swept  # type: ignore[attr-defined, assignment]
        os.fsync = fsynced  # type: ignore[assignment]


class Mortal(RedisTransport):
    """The Redis transport, with death after a publication."""

    def __init__(self, settings: Any, death: Death) -> None:
        super().__init__(settings)
        self.death = death
        self.is_beside &= death.dies != "after publishing"  # there is no such instant where messages go with commits

    def send(self, outgoing: Outgoing) -> None:
        """As the product's, then perhaps death."""
        super().send(outgoing)
        self.death.at("after publishing")


def main(given: dict[str, Any]) -> None:
    """Run until killed or asked to stop."""
    settings = settings_for(
        given["url"],
        namespace=given["namespace"],
        shards=given["shards"],
        shard_lease_seconds=given["lease"],
        retention=given.get("retention"),
    )
    death = Death(given["dies"], given["nth"])
    owned.send_commits = death.send_commits  # type: ignore[attr-defined, assignment]
    death.lie_in_wait()
    for room in (dispatch, overdue):
        room.CHECK_MS = 50  # type: ignore[attr-defined]
    scheduler = Scheduler(settings, Mortal(settings, death))
    signal.signal(signal.SIGTERM, scheduler.interrupt)
    scheduler.run()
    Path(given["counts"]).write_text(json.dumps(scheduler.counts))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
