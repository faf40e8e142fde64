"""Where a command's Redis is: options, settings, and a server that is running, or can be for a moment.

In this order: `--redis`, `CELERIAC_REDIS_URL`, celeriac.toml; the embedded server of the data directory while
`celeriac up` keeps it; for commands that only read, the same server started for as long as the command takes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import StoreUnreachable
from .output import note

if TYPE_CHECKING:
    from ..settings import Settings
    from ..store.runs import Runs
    from ..wire import RunId

T = TypeVar("T")


@dataclass
class Place:
    """What the options of a command said about the installation it is for."""

    config: Path | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    def settings(self, **more: Any) -> Settings:
        """All settings, read now.

        Raises:
            SettingsError: one of them cannot be used.
        """
        from ..settings import Settings

        return Settings.load(self.config, **{**self.overrides, **more})

    def located(self, **more: Any) -> Settings:
        """Settings with a Redis that should be answering: as configured, else the embedded one if it runs.

        Raises:
            StoreUnreachable: none is configured and none runs.
        """
        from ..embedded import running

        settings = self.settings(**more)
        if settings.redis_url is not None:
            return settings
        url = running(settings.data_dir)
        if url is None:
            raise StoreUnreachable(
                f"{settings.data_dir} (embedded)",
                "no `celeriac up` is running there, and CELERIAC_REDIS_URL is not set",
            )
        return self.settings(redis_url=url, **{"archive_url": settings.archive, **more})

    @contextlib.contextmanager
    def for_reading(self) -> Iterator[Settings]:
        """The same; an embedded server that rests is started on its data until the block ends."""
        from ..embedded import EmbeddedRedis, running

        settings = self.settings()
        if settings.redis_url is None and running(settings.data_dir) is None and _has_data(settings.data_dir):
            note(f"(nothing is running; reading the data in {settings.data_dir})")
            with EmbeddedRedis(settings.data_dir) as server:
                yield self.settings(redis_url=server.url, archive_url=settings.archive)
        else:
            yield self.located()


def _has_data(data_dir: Path) -> bool:
    """Whether an embedded server has ever written there."""
    return any((data_dir / name).exists() for name in ("appendonlydir", "appendonly.aof"))


def runs_of(settings: Settings, *, timeout_seconds: float | None = None) -> Runs:
    """The runs of an installation; the connection is made by the first question."""
    from ..store.connection import SOCKET_TIMEOUT_SECONDS, connect
    from ..store.runs import connect_runs

    if settings.redis_url is None:
        raise StoreUnreachable("(none)", "no Redis is configured")
    client = connect(settings.redis_url, timeout_seconds=timeout_seconds or SOCKET_TIMEOUT_SECONDS)
    return connect_runs(client, settings.namespace, settings.shards)


def runs_with(settings: Settings, run: RunId) -> Runs:
    """Where a run is read: the store, else the archive.

    Raises:
        RunNotFound, RunArchived: in neither.
    """
    from ..archive import archived_run

    runs = runs_of(settings)
    [found] = runs.summaries([run])
    return archived_run(runs, settings.archive, run) if found is None else runs


def place_options(command: Callable[..., T]) -> Callable[..., T]:
    """Adds `--redis`, `--namespace` and `--config`; the command gets a `Place` as its argument `place`."""

    @click.option("--redis", "redis_url", metavar="URL", help="Redis of the installation [CELERIAC_REDIS_URL].")
    @click.option("--namespace", metavar="NAME", help="First part of its keys [CELERIAC_NAMESPACE].")
    @click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Settings file [CELERIAC_CONFIG, ./celeriac.toml].",
    )
    @wraps(command)
    def with_place(*args: Any, redis_url: str | None, namespace: str | None, config: Path | None, **kwargs: Any) -> T:
        place = Place(config, {"redis_url": redis_url, "namespace": namespace})
        return command(*args, place=place, **kwargs)

    return with_place
