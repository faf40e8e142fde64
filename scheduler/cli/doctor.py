"""`celeriac doctor`: what is wrong with this installation, and what to do about it. Changes nothing.

Five questions, in this order: does Redis keep what it acknowledged, does the broker answer, does a scheduler own every
shard, is there a worker for whatever there is to do, do ended runs go where they belong? Each finding is ok, a note, or
wrong; exit status 1 when something is wrong.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, NamedTuple

import click

from .. import __version__
from ..errors import escaped
from .output import Output, note, output_option, span
from .place import Place, place_options, runs_of
from .status import FAILED

if TYPE_CHECKING:
    from ..settings import Settings
    from ..store.health import Health
    from ..store.runs import Runs

PACKAGES = ("celery", "kombu", "redis", "pydantic", "click", "rich", "flower")
_CLOCK_MS = 2_000
_LOADED_RUNS = 500
_OVERDUE_MS = 3_600_000


class Finding(NamedTuple):
    """One answer: `state` is ok, note or wrong."""

    state: str
    subject: str
    found: str
    remedy: str = ""


@click.command("doctor")
@click.option("--deep", is_flag=True, help="Compare all that is stored with itself, run by run. Reads all of it.")
@place_options
@output_option
@click.pass_context
def doctor_command(ctx: click.Context, deep: bool, place: Place, out: Output) -> None:
    """Say what is wrong with this installation: Redis, schedulers, workers, work without workers.

    With --deep also whether what is stored agrees with itself; the system may work meanwhile.
    """
    with place.for_reading() as settings:
        findings = [*examine(settings), *(compare(settings) if deep else ())]
        shown = settings.redacted()
    wrong = [it for it in findings if it.state == "wrong"]
    if out.json:
        document = {"ok": not wrong, "findings": [it._asdict() for it in findings]}
        out.document({**document, "settings": shown, "versions": versions()})
    else:
        out.table(
            ["state", "subject", "found", "what to do"],
            [[it.state, it.subject, it.found, it.remedy] for it in findings],
        )
    note("Nothing is wrong." if not wrong else f"{len(wrong)} of {len(findings)} findings need attention.")
    ctx.exit(FAILED if wrong else 0)


@click.command("version")
@output_option
def version_command(out: Output) -> None:
    """Print versions, of celeriac and of what it stands on."""
    found = {"python": platform.python_version(), **versions()}
    if out.json:
        out.document(found)
    else:
        out.facts(list(found.items()))


def versions() -> dict[str, str]:
    """Package -> version."""
    found = {"celeriac": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def examine(settings: Settings) -> Iterator[Finding]:
    """All findings.

    Raises:
        redis.exceptions.RedisError: Redis does not answer at all.
    """
    from ..store.health import look

    runs = runs_of(settings, timeout_seconds=5.0)
    yield from _redis(look(runs.client, fsync=True), settings)
    yield from _broker(settings)
    yield from _shards(runs)
    yield from _workers(settings, runs)
    yield from _ended(settings, runs)
    yield from _dead(runs)


def compare(settings: Settings) -> Iterator[Finding]:
    """What in the store does not agree with the rest of it, and shards that have lost commits."""
    from ..store.audit import audit, rewound

    runs = runs_of(settings)
    found = 0
    for it in audit(runs):
        found += 1
        yield Finding("wrong", it.where, escaped(it.found, 500), it.remedy)
    for shard, (at_ms, missing, times) in rewound(runs).items():
        ago = span(runs.now_ms() - at_ms)
        said = (
            f"went back in time {times} times, last {ago} ago, when Redis lost {missing} or more acknowledged commits"
        )
        yield Finding("note", f"shard {shard}", said, "Its runs went on; why Redis lost them is to be found out.")
    if not found:
        yield Finding("ok", "store", "all that is stored agrees with itself")


def _dead(runs: Runs) -> Iterator[Finding]:
    from ..store.dead import DeadLetters

    found = DeadLetters(runs).count()
    pushed = f"; {found.pushed_out} older ones were pushed out" if found.pushed_out else ""
    if found.here or pushed:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(found.written.items()))
        remedy = "See `celeriac dead ls`; put them back with `dead redrive`, or drop them."
        yield Finding("note", "dead letters", f"{found.here} here (ever: {kinds}){pushed}", remedy)
    else:
        yield Finding("ok", "dead letters", "none")


def _redis(health: Health, settings: Settings) -> Iterator[Finding]:
    from ..settings import redacted

    where = escaped(redacted(settings.redis_url or ""), 200)
    yield Finding("ok", "redis", f"{health.version} at {where}, answers in {health.answer_ms:g} ms")
    for problem, remedy in health.problems():
        yield Finding("wrong", "redis", problem, remedy)
    for what, url in (("redis", settings.redis_url), ("broker", settings.broker_url)):
        if "ssl_cert_reqs=none" in (url or "").lower().replace("cert_none", "none"):
            yield Finding("wrong", what, "whoever answers is taken for it: ssl_cert_reqs=none", "Name its authority.")
    if health.append_only and health.eviction == "noeviction":
        yield Finding("ok", "persistence", f"appendonly, fsync {health.fsync or 'unknown'}; nothing is evicted")
    elif health.append_only is None or health.eviction is None:
        yield Finding("note", "persistence", "the server does not say how it keeps data", "Check appendonly yourself.")
    if abs(health.clock_ms) > _CLOCK_MS:
        yield Finding(
            "note", "clock", f"ours and Redis's differ by {span(abs(health.clock_ms))}", "Synchronise them (NTP)."
        )
    else:
        yield Finding("ok", "clock", f"{abs(health.clock_ms)} ms from ours")


def _broker(settings: Settings) -> Iterator[Finding]:
    from ..service.broker import look
    from ..settings import redacted

    where = escaped(redacted(settings.broker_url or ""), 200)
    try:
        found = look(settings)
    except Exception as problem:  # noqa: BLE001  any broker, any client library
        what = escaped(f"{type(problem).__name__}: {problem}", 300)
        yield Finding("wrong", "broker", f"{where} does not answer: {what}", "Start it, or correct broker_url.")
        return
    waiting = ", ".join(f"{name} {depth or 0:,}" for name, depth in found.depths.items())
    product = f"{escaped(found.product, 100)} at " if found.product else ""
    yield Finding("ok", "broker", f"{product}{where}; messages waiting: {waiting}")
    for name in found.differing:
        yield Finding(
            "wrong",
            f"queue of {name}",
            "is declared otherwise than our settings say, so workers are refused (PRECONDITION_FAILED)",
            "Give the class another queue name, or delete the empty queue; runs do not notice.",
        )
    if found.dead_letters:
        yield Finding(
            "note",
            f"queue {settings.broker_dead_letter_queue}",
            f"{found.dead_letters:,} messages were rejected, or delivered too often",
            "Look at one; what it was for has been sent again.",
        )
    if found.taken_back:
        yield Finding(
            "note",
            "consumer_timeout",
            f"unless it was raised, the broker takes a message back after 30 minutes; longer may take: "
            f"{', '.join(found.taken_back)}",
            "Raise it in rabbitmq.conf; until then such a worker connects anew, and nothing runs twice.",
        )


def _shards(runs: Runs) -> Iterator[Finding]:
    from ..store.health import live_schedulers
    from ..store.owners import Owners

    now = runs.now_ms()
    schedulers = live_schedulers(runs.client, runs.keys)
    owned: dict[str, int] = {}
    free = 0
    table = Owners(runs.client, runs.namespace, "doctor", 0).table()
    for shard in range(runs.shards):
        owner = table.get(shard)
        if owner is None or owner.lease_end_ms <= now:
            free += 1
        else:
            owned[owner.scheduler] = owned.get(owner.scheduler, 0) + 1
    for name in sorted({*schedulers, *owned}):
        yield Finding("ok", "scheduler", f"{escaped(name, 100)} owns {owned.get(name, 0)} of {runs.shards} shards")
    if not schedulers:
        yield Finding("wrong", "scheduler", "none is running", "Start `celeriac scheduler`, or `celeriac up`.")
    elif free:
        yield Finding(
            "note", "shards", f"{free} of {runs.shards} have no owner now", "A scheduler takes them within its lease."
        )


def _workers(settings: Settings, runs: Runs) -> Iterator[Finding]:
    from ..client.views import Workers
    from ..core.states import ENDED_RUNS
    from .work import demand_of

    workers = Workers.read(runs, settings)
    live = [it for it in runs.newest(limit=_LOADED_RUNS, ended=False) if it.state not in ENDED_RUNS]
    demand = demand_of(workers, runs.load_many([it.id for it in live]))
    now = runs.now_ms()
    for name in settings.classes:
        mine = workers.serving.get(name, [])
        slots = sum(it.get("concurrency") or 0 for it in mine)
        since = demand.since_ms.get(name)
        first = "" if since is None else f", the first for {span(max(now - since, 0))}"
        work = f"; {demand.ready.get(name, 0)} nodes ready{first}, {demand.flying.get(name, 0)} attempts sent"
        found = f"{len(mine)} workers, {slots} slots{work if name in demand.classes else ''}"
        if name in demand.classes and not mine:
            yield Finding("wrong", f"class {name}", f"{found}, and no worker", f"Start `celeriac worker {name}`.")
        else:
            yield Finding("ok" if mine else "note", f"class {name}", found)
    for name in sorted(demand.classes - set(settings.classes) - workers.serving.keys()):
        yield Finding(
            "wrong", f"class {escaped(name, 64)}", "has work and is not declared here", "Add it to queues.toml."
        )
    for why, number in sorted(demand.apart.items()):
        yield Finding(
            "wrong",
            "waiting nodes",
            f"{number} wait: {escaped(why, 300)}",
            "Start a worker that has it, or cancel the run.",
        )
    for name, silent_ms in sorted(workers.silent.items()):
        yield Finding(
            "note", f"worker {escaped(name, 100)}", f"silent for {span(silent_ms)}", "It has died, or Redis is away."
        )
    if len(live) >= _LOADED_RUNS:
        yield Finding("note", "runs", f"only the newest {_LOADED_RUNS} live runs were looked at")


def _ended(settings: Settings, runs: Runs) -> Iterator[Finding]:
    """Ended runs: how many there are, and whether they go when their time has come."""
    from ..settings import redacted
    from ..store.ended import EndedRuns

    number, oldest_ms = EndedRuns(runs).standing()
    place, problem = settings.archive, runs.archive_problem()
    if problem:
        yield Finding("wrong", "archive", escaped(problem, 300), "Correct archive_url, or the rights there.")
    found = f"{number}, the oldest for {span(oldest_ms)}" if number else "none"
    age_ms = float("inf") if settings.retention_seconds is None else settings.retention_seconds * 1000
    if place is None and number and oldest_ms > age_ms:
        yield Finding(
            "note",
            "ended runs",
            f"{found}; no archive is named, so all of them stay in Redis",
            'Set archive_url (CELERIAC_ARCHIVE_URL) to a folder or URL, or to "none" to throw them away.',
        )
    elif place is not None and oldest_ms > age_ms + _OVERDUE_MS:
        yield Finding(
            "wrong",
            "ended runs",
            f"{found}; they are overdue",
            "Look at the schedulers' log, and at their archive_url.",
        )
    else:
        where = "" if place is None else f"; they go to {escaped(redacted(place), 200)}"
        yield Finding("ok", "ended runs", found + where)
