"""What every demo stands on: an embedded Redis, one scheduler and workers, as children, in a directory of their own.

The examples are loaded by import path, for this side of celeriac never imports executors.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import CeleriacError, SettingsError, escaped
from .output import note
from .supervisor import Child, Supervisor
from .up import start_scheduler, start_worker

if TYPE_CHECKING:
    from ..settings import Settings
    from ..store.runs import Runs

READY_SECONDS = 60.0


class ChildEndedError(CeleriacError):
    """A process that the demo needs has ended by itself."""

    def __init__(self, child: Child, words: str) -> None:
        status = child.process.poll() if child.process is not None else None
        super().__init__(f"{child.name} ended with status {status}. Its last words:\n{words or '(none)'}")


@dataclass
class Demonstration:
    """An installation that runs for one demo.

    Attributes:
        home: its directory.
        ready_seconds: how long it took until workers of all classes were there.
    """

    home: Path
    settings: Settings
    runs: Runs
    supervisor: Supervisor
    ready_seconds: float = 0.0

    def check(self) -> None:
        """All children live.

        Raises:
            ChildEndedError: one does not.
        """
        for child in self.supervisor.ended():
            raise ChildEndedError(child, self.supervisor.last_words(child))


@contextlib.contextmanager
def demonstrated(home: Path, classes: Sequence[str], app: str) -> Iterator[Demonstration]:
    """Redis, a scheduler and a worker of each class, ready to work, until the block ends.

    Args:
        home: for data and logs.
        app: import path of the Celery app of the workers.

    Raises:
        CeleriacError: a worker was not ready in time, or a process has ended.
    """
    from ..embedded import EmbeddedRedis
    from .place import runs_of

    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis(home / "redis"))
        settings = _settings(home, server.url, server.broker_url, app)
        note(f"Redis {'.'.join(map(str, server.version))}, one scheduler, workers of {' and '.join(classes)} ...")
        logs = home / "logs"
        logs.mkdir(exist_ok=True)
        supervisor = Supervisor(lambda child, line: note(f"{child}: {escaped(line)}"), logs=logs)
        stack.callback(supervisor.stop)
        with _own_environment(home):
            start_scheduler(supervisor, settings)
            for name in classes:
                start_worker(supervisor, settings, settings.classes[name])
        found = Demonstration(home, settings, runs_of(settings), supervisor)
        _wait_for_workers(found, set(classes))
        found.ready_seconds = time.monotonic() - begun
        yield found


def example_of(module: str) -> Any:
    """An example's module, which has a function `graph`.

    Raises:
        SettingsError: it is not here; an installed wheel does not hold it.
    """
    from .sources import attribute_of

    try:
        attribute_of(f"{module}:graph")
    except click.UsageError:
        raise SettingsError(
            "celeriac demo",
            f"{module} is not here: the example belongs to the repository and the image, not to the installed package",
            "Run it in a checkout (`make demo`), with the checkout on PYTHONPATH, or in the image",
        ) from None
    return importlib.import_module(module)


def _settings(home: Path, redis_url: str, broker_url: str, app: str) -> Settings:
    """The shipped settings on this Redis, whatever the user's own files say."""
    from ..settings import Settings, default_file

    (home / "celeriac.toml").write_text("# the demo uses the shipped settings\n", encoding="utf-8")
    return Settings.load(
        home / "celeriac.toml",
        redis_url=redis_url,
        broker_url=broker_url,
        namespace="cel",
        shards=16,
        queues_file=default_file("queues.toml"),
        celery_file=default_file("celery.toml"),
        app=app,
    )


@contextlib.contextmanager
def _own_environment(home: Path) -> Iterator[None]:
    """Children that are started meanwhile see no settings but the demo's."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("CELERIAC_")]:
        del os.environ[name]
    os.environ["CELERIAC_CONFIG"] = str(home / "celeriac.toml")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _wait_for_workers(it: Demonstration, classes: set[str]) -> None:
    """Until a worker of each class has announced itself."""
    from ..client.views import Workers

    deadline = time.monotonic() + READY_SECONDS
    while not Workers.read(it.runs, it.settings).serving.keys() >= classes:
        it.check()
        if time.monotonic() > deadline:
            words = "\n".join(f"{one.name}:\n{it.supervisor.last_words(one)}" for one in it.supervisor.children)
            raise CeleriacError(f"no worker was ready within {READY_SECONDS:g} s.\n{words}")
        time.sleep(0.05)
