"""install() on apps of every make: what it lays around tasks and backends, and what it leaves alone."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task, shared_task
from celery.backends.cache import CacheBackend
from celery.exceptions import InvalidTaskError

from scheduler.errors import SettingsError
from scheduler.store.attempts import Attempts
from scheduler.wire import DeadMessage, Report, new_run_id
from scheduler.worker import install
from scheduler.worker.endings import lost
from scheduler.worker.installation import installation_of, installed_on
from scheduler.worker.options import heartbeat_seconds, worker_argv, worker_environment
from scheduler.worker.report import QUEUED_DEAD, Courier, tell
from scheduler.worker.survival import check

ATTEMPT = f"7.{new_run_id(0)}.0.1.1"


@shared_task(name="unit.shared")
def shared() -> None:
    """Do nothing, in every app."""


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """An app of this test's own, in an environment that says nothing."""
    for name in ("CELERIAC_REDIS_URL", "CELERIAC_NAMESPACE", "CELERIAC_QUEUE_CLASS", "CELERIAC_HEARTBEAT_SECONDS"):
        monkeypatch.delenv(name, raising=False)
    it = Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield it
    it.close()


def hooks(task: Any) -> list[Any]:
    """What install() lays around a task, as it stands now."""
    names = ("before_start", "on_retry", "on_replace", "signature_from_request", "Strategy")
    return [getattr(type(task), name) for name in names]


def test_installing_again_changes_nothing_but_what_is_given(app: Celery) -> None:
    """The line may stand in two modules; nothing is wrapped twice."""

    @app.task(name="plain", shared=False)
    def plain() -> None:
        """Do nothing."""

    install(app, redis_url="redis://one")
    before, backend = hooks(app.tasks["plain"]), type(app.backend)
    install(app, namespace="other", errors={ValueError: "permanent"})
    app.finalize()
    install(app)

    assert hooks(app.tasks["plain"]) == before
    assert type(app.backend) is backend
    it = installed_on(app)
    assert (it.url(), it.namespace_name(), it.errors) == ("redis://one", "other", {ValueError: "permanent"})


@pytest.mark.parametrize("first", ["install", "tasks", "finalize"])
def test_the_order_of_install_and_tasks_does_not_matter(app: Celery, first: str) -> None:
    """Before the tasks, after them, after the app was finalized: all of them are covered, Celery's own too."""
    if first == "install":
        install(app, redis_url="redis://nowhere")

    @app.task(name="plain", shared=False)
    def plain() -> None:
        """Do nothing."""

    if first == "finalize":
        app.finalize()
    if first != "install":
        install(app, redis_url="redis://nowhere")
    for name in ("plain", "unit.shared", "celery.accumulate"):
        assert all(hasattr(it, "_celeriac_hook") for it in hooks(app.tasks[name])[:-1]), name


def test_other_apps_are_left_alone(app: Celery) -> None:
    """Nothing is changed on Celery's own classes."""
    install(app, redis_url="redis://nowhere")
    app.finalize()
    other = Celery("other", broker="memory://", set_as_current=False)

    @other.task(name="plain", shared=False)
    def plain() -> None:
        """Do nothing."""

    assert not any(hasattr(it, "_celeriac_hook") for it in hooks(other.tasks["plain"]))
    assert not hasattr(Task.before_start, "_celeriac_hook")
    assert type(other.backend).__module__.startswith("celery.")
    assert installation_of(other) is None
    other.close()


def test_hooks_of_the_user_run_for_ordinary_tasks(app: Celery) -> None:
    """Given as options, on a base class, or as static functions: called as Celery would call them."""
    seen: list[Any] = []

    class Base(Task):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            seen.append(("base", self.name, args))

    def given(self: Any, task_id: str, args: Any, kwargs: Any) -> None:
        seen.append(("option", self.name, args))

    def static(task_id: str, args: Any, kwargs: Any) -> None:
        seen.append(("static", args))

    def same(x: int) -> int:
        return x

    app.conf.task_always_eager = True
    for name, options in (
        ("a", {"base": Base}),
        ("b", {"before_start": given}),
        ("c", {"before_start": staticmethod(static)}),
    ):
        app.task(name=name, shared=False, **options)(same)
    install(app, redis_url="redis://nowhere")
    for name in ("a", "b", "c"):
        assert app.tasks[name].delay(1).get() == 1

    assert [(it[0], list(it[-1])) for it in seen] == [("base", [1]), ("option", [1]), ("static", [1])]


def test_a_backend_is_still_what_the_user_configured(app: Celery) -> None:
    """A subclass of its own class, also one that a task has for itself; pickles need no celeriac."""
    own = CacheBackend(app=app, url="memory://")

    @app.task(name="own", backend=own, shared=False)
    def has_own() -> None:
        """Do nothing."""

    install(app, redis_url="redis://nowhere")
    app.finalize()
    for backend in (app.backend, app.tasks["own"].backend):
        assert isinstance(backend, CacheBackend)
        assert hasattr(backend, "celeriac_tee")
        rebuild, (cls, *_) = backend.__reduce__()
        assert cls is CacheBackend
        assert b"celeriac" not in pickle.dumps(rebuild)
    app.backend.mark_as_done("an-ordinary-id", 5)
    assert app.AsyncResult("an-ordinary-id").get() == 5


def test_the_store_is_found(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, else the environment, else the broker when it is Redis; else it is said what to do."""
    install(app)
    it = installed_on(app)
    with pytest.raises(SettingsError, match="CELERIAC_REDIS_URL"):
        it.url()
    app.conf.broker_url = "redis+socket:///run/redis.sock;redis://second"
    assert it.url() == "redis+socket:///run/redis.sock"
    it.redis_url = None
    monkeypatch.setenv("CELERIAC_REDIS_URL", "redis://from-environment")
    monkeypatch.setenv("CELERIAC_NAMESPACE", "there")
    monkeypatch.setenv("CELERIAC_QUEUE_CLASS", "batch")
    assert (it.url(), it.namespace_name(), it.class_name()) == ("redis://from-environment", "there", "batch")
    install(app, redis_url="redis://given", settings=SimpleNamespace(redis_url="redis://settings", namespace="set"))
    assert (it.url(), it.namespace_name()) == ("redis://given", "set")


def test_wrong_options_are_refused(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the place and the remedy."""
    with pytest.raises(SettingsError, match=r"ValueError\]: found 'bad', which is not an error kind"):
        install(app, errors={ValueError: "bad"})
    for seconds in (0, -1, float("nan")):
        with pytest.raises(SettingsError, match="heartbeat_seconds"):
            install(app, heartbeat_seconds=seconds)
    for text in ("soon", "0", "nan", "inf"):
        monkeypatch.setenv("CELERIAC_HEARTBEAT_SECONDS", text)
        with pytest.raises(SettingsError, match="CELERIAC_HEARTBEAT_SECONDS"):
            installed_on(app).interval()
    monkeypatch.setenv("CELERIAC_HEARTBEAT_SECONDS", "0.5")
    assert installed_on(app).interval() == 0.5
    monkeypatch.setenv("CELERIAC_ATTEMPT_EVENTS", "perhaps")
    with pytest.raises(SettingsError, match="CELERIAC_ATTEMPT_EVENTS"):
        installed_on(app).sends_events()


@pytest.mark.parametrize("text", ["1", "true", "True", "on", "0", "false", "False", "off", ""])
def test_events_of_attempts_are_off_unless_asked_for(app: Celery, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The environment says it as settings do; what install() is given counts more."""
    monkeypatch.setenv("CELERIAC_ATTEMPT_EVENTS", text)
    install(app)
    assert installed_on(app).sends_events() is (text.lower() in ("1", "true", "on"))
    install(app, attempt_events=False)
    install(app)
    assert installed_on(app).sends_events() is False


def message(payload: Any = ([], {}, {}), **headers: Any) -> Any:
    """A message as Celery's consumer hands it over."""
    merged = {"id": "x", "task": "t", **headers}
    return SimpleNamespace(headers={key: it for key, it in merged.items() if it is not ...}, payload=payload)


@pytest.mark.parametrize(
    "good",
    [
        message(),
        message(id=None),
        message(id=5),
        message(timelimit=None),
        message(timelimit=[None, None]),
        message(timelimit=(3, 2.5)),
        message(timelimit=[]),
        message(payload=[[1], {}, None]),
        message(payload={"args": [], "kwargs": {}}),
        message(payload=["ab", {}, {}]),  # Celery calls a task with any iterable
        message(payload={"task": "t"}),
    ],
)
def test_what_celery_survives_is_left_to_celery(good: Any) -> None:
    """Ordinary messages take exactly the way they took before."""
    check(good, None)
    check(message(id=...), {"task": "protocol 1"})


@pytest.mark.parametrize(
    "bad",
    [
        message(id=...),
        message(id=[1]),
        message(id={}),
        message(timelimit=5),
        message(stamped_headers=5),
        message(stamped_headers=[[1]]),
        message(stamps=["a"]),
        message(timelimit="soon"),
        message(timelimit=[1]),
        message(timelimit=["a", None]),
        message(timelimit=[-1, None]),
        message(payload=None),
        message(payload=7),
        message(payload="abc"),
        message(payload=[1, 2]),
        message(payload=[[], {}, [1]]),
        message(payload=[None, {}, {}]),
        message(payload=[5, {}, {}]),
        message(payload=[[], [], {}]),
        message(payload={"args": None, "kwargs": {}}),
        message(payload={"args": [], "kwargs": None}),
        message(payload=[None, {}, {}], id=ATTEMPT),
        message(payload=["ab", {}, {}], id=ATTEMPT),
        message(payload=[[], [], {}], id=ATTEMPT),
    ],
)
def test_what_would_end_the_worker_becomes_an_invalid_task(bad: Any) -> None:
    """Celery rejects those and goes on."""
    with pytest.raises(InvalidTaskError):
        check(bad, None)


class Store(Attempts):
    """Remembers reports instead of sending them; fails as often as it is told to."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.told: list[Report] = []
        self.dead: list[DeadMessage] = []

    def report_dead(self, messages: Any) -> None:
        self.dead += messages

    def report(self, reports: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("away")
        self.told += [report for report, _ in reports]

    def claimed(self, ids: Any) -> dict[str, tuple[int, str, str]]:
        return {"a": (5, "w@here/1f", "")} if "a" in ids else {}


def test_the_courier_tells_each_attempt_once_and_through_outages(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """send() returns at once; what was suppressed is not told; flush waits for the rest; claims say who began."""
    install(app, redis_url="redis://nowhere")
    it, store = installed_on(app), Store(failures=2)
    monkeypatch.setattr(it, "open", lambda: store)
    it.courier = Courier(it)
    it.courier.suppress("b")
    for id_ in ("a", "b", "c", "a"):
        tell(it, id_, lost("Gone", "x"))

    assert it.courier.flush(10)
    assert [(it.id, it.claimed_at_ms, it.worker) for it in store.told] == [("a", 5, "w@here"), ("c", None, "")]


def test_the_courier_says_which_letters_it_drops(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """During an outage it keeps so many rejected messages; none beyond that goes without a word."""
    install(app, redis_url="redis://nowhere")
    it, store = installed_on(app), Store(failures=10**9)
    monkeypatch.setattr(it, "open", lambda: store)
    it.courier = Courier(it)
    taken = [it.courier.send_dead(DeadMessage(str(number))) for number in range(3 * QUEUED_DEAD)]
    kept = sum(taken)
    assert QUEUED_DEAD <= kept <= QUEUED_DEAD + 10  # some are in its hands already
    store.failures = 0
    assert it.courier.flush(10)
    assert [dead.cause for dead in store.dead] == [str(number) for number, told in enumerate(taken) if told]


def test_a_worker_is_started_as_its_class_says() -> None:
    """Celery's arguments from "worker" on, and the environment that goes with them."""
    served = SimpleNamespace(
        name="some",
        queue="celeriac.some",
        pool="threads",
        concurrency=8,
        prefetch=2,
        lease_seconds=4.0,
        shutdown_seconds=10,
    )
    argv = worker_argv(served)
    assert argv[0] == "worker"
    assert {"--queues=celeriac.some", "--pool=threads", "--concurrency=8", "--prefetch-multiplier=2"} <= set(argv)
    assert {"--hostname=some@%h", "--without-mingle", "--without-gossip"} <= set(argv)
    assert argv[-2:] == ["--", "worker.soft_shutdown_timeout=10.0"]
    assert {"--concurrency=3", "--hostname=w@x"} <= set(worker_argv(served, hostname="w@x", concurrency=3))
    assert worker_environment(served) == {
        "CELERIAC_EXECUTORS": "*",
        "CELERIAC_QUEUE_CLASS": "some",
        "CELERIAC_HEARTBEAT_SECONDS": "1",
        "REMAP_SIGTERM": "SIGQUIT",
    }
    assert heartbeat_seconds(60) == 5.0
