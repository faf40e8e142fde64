"""`celeriac policy ...`: the rules above all graphs. Check and deploy them, go back, and see what counts for a node.

A policy is a file with a version; a version never changes once it is deployed. Workers are not touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .changes import history_option, login_of, show_changes, who_and_why
from .output import Output, instant, note, output_option
from .place import Place, place_options, runs_of, runs_with

if TYPE_CHECKING:
    from ..client.views import Workers
    from ..core.run import Run
    from ..policy import Line
    from ..store.runs import Runs
    from ..store.summaries import Summary


@click.group("policy")
def policy_command() -> None:
    """The rules that stand above all graphs: retries, limits of time, safety checks."""


@policy_command.command("check")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@output_option
def check(file: Path, out: Output) -> None:
    """Say what is wrong with the policy in FILE (TOML, YAML or JSON), or what it would deploy."""
    policy = _read(file)
    if out.json:
        out.document(policy)
        return
    out.table(["layer", "match", "sets", "checks"], _rows(policy))


@policy_command.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@who_and_why
@place_options
@output_option
def apply(file: Path, by: str | None, reason: str, place: Place, out: Output) -> None:
    """Deploy the policy in FILE: it is in force from now on."""
    from ..store import policies

    policy = _read(file)
    runs = runs_of(place.located())
    changed = policies.deploy(runs, policy, login_of(by), reason)
    _say(policy["version"], policy["adopt"], changed, out)


@policy_command.command("use")
@click.argument("version")
@who_and_why
@place_options
@output_option
def use(version: str, by: str | None, reason: str, place: Place, out: Output) -> None:
    """Put a VERSION that was deployed before in force again."""
    from ..store import policies

    runs = runs_of(place.located())
    changed = policies.use(runs, version, login_of(by), reason)
    _say(version, policies.record(runs, version)["adopt"], changed, out)


@policy_command.command("withdraw")
@who_and_why
@place_options
@output_option
def withdraw(by: str | None, reason: str, place: Place, out: Output) -> None:
    """Have no policy in force; runs keep what they have taken up."""
    from ..store import policies

    changed = policies.withdraw(runs_of(place.located()), login_of(by), reason)
    if out.json:
        out.document({"version": None, "changed": changed})
    note("No policy is in force from now on." if changed else "No policy was in force.")


@policy_command.command("ls")
@history_option
@place_options
@output_option
def ls(history: bool, place: Place, out: Output) -> None:
    """Versions that were deployed, and which one is in force."""
    from ..store import policies

    with place.for_reading() as settings:
        runs = runs_of(settings)
        if history:
            show_changes(out, (it._asdict() for it in policies.history(runs)), version="(withdrawn)")
            return
        current = policies.current(runs) or {}
        found = [policies.record(runs, version) for version in policies.versions(runs)]
    if out.json:
        out.document([{**it, "in_force": it["version"] == current.get("version")} for it in found])
        return
    rows: list[list[str | int]] = [
        [it["version"], "yes" if it["version"] == current.get("version") else "", it["adopt"], len(it["layers"])]
        for it in found
    ]
    out.table(["version", "in force", "adopted by", "layers"], rows)


@policy_command.command("show")
@click.argument("version", required=False)
@place_options
@output_option
def show(version: str | None, place: Place, out: Output) -> None:
    """What a VERSION says, layer by layer [default: the one in force]."""
    from ..store import policies

    with place.for_reading() as settings:
        runs = runs_of(settings)
        policy = policies.current(runs) if version is None else policies.record(runs, version)
    if out.json:
        out.document(policy)
        return
    if policy is None:
        note("No policy is in force.")
        return
    out.table(["layer", "match", "sets", "checks"], _rows(policy))
    checks = [[name, it.get("before", ""), it.get("after", ""), it["deny"]] for name, it in policy["checks"].items()]
    if checks:
        out.table(["check", "before", "after", "deny"], checks)


@policy_command.command("of")
@click.argument("run")
@click.argument("node")
@place_options
@output_option
def of(run: str, node: str, place: Place, out: Output) -> None:
    """What counts for NODE of RUN, value by value, and which layer's word each is."""
    from ..client.views import Workers
    from .runs import checked_id

    id_ = checked_id(run)
    with place.for_reading() as settings:
        runs = runs_with(settings, id_)
        loaded, [summary] = runs.load(id_), runs.summaries([id_])
        workers = Workers.read(runs_of(settings), settings)
        number = _number(loaded, node)
        lines, checks = _effective(runs_of(settings), loaded, number, workers)
    lines = [*lines, *_of_run(summary)]
    version = None if loaded.policy is None else loaded.policy.version
    ignored = workers.celery_retries(loaded.way(number))
    if out.json:
        out.document(
            {
                "run": id_,
                "node": node,
                "policy": version,
                "settings": [it._asdict() for it in lines],
                "checks": checks,
                "ignored": ignored,
            }
        )
        return
    out.facts([("policy", version or "none"), ("checks", ", ".join(checks) or "none")])
    rows = [
        [it.name, _text(it.value), it.source, "locked" if it.locked else "", "; ".join(it.overruled)] for it in lines
    ]
    out.table(["setting", "value", "whose word", "", "overruled"], rows)
    for told in ignored:
        out.line(f"ignored: the executor declares {told} to Celery; retries are the scheduler's")


def _effective(runs: Runs, run: Run, node: int, workers: Workers) -> tuple[list[Line], list[str]]:
    """What the layers say of a node, and the names of its safety checks."""
    from ..core.policies import place_of
    from ..policy import view
    from ..store import policies

    number = run.profile[node]
    profile = run.profiles[number]
    queue_class = workers.queue_class(profile) or profile.queue_class or ""
    executor = workers.executor(profile) or profile.executor
    limit = workers.class_timeout_ms(queue_class)
    where = place_of(run.name, profile.executor, queue_class, workers.contract(executor), limit)
    layers = [] if run.policy is None else policies.record(runs, run.policy.version)["layers"]
    checks = [] if run.policy is None else [it.name for it in run.policy.checks_of(executor, queue_class)]
    return view(run.declared[number], layers, where), checks


def _of_run(summary: Summary | None) -> list[Line]:
    """What the run itself says: its deadline, its priority."""
    from ..policy import Line

    if summary is None:
        return []
    deadline = None if summary.deadline_at_ms is None else instant(summary.deadline_at_ms)
    return [
        Line("deadline", deadline, "run" if deadline else "default", "run" if deadline else "default"),
        Line("priority", summary.priority, *("run", "run") if summary.priority else ("default", "default")),
    ]


def _number(run: Run, node: str) -> int:
    from ..errors import NodeNotFound

    if node not in run.keys:
        raise NodeNotFound(run.id, node, run.keys)
    return run.keys.index(node)


def _read(file: Path) -> dict[str, Any]:
    from ..policy import read_policy, remarks

    policy = read_policy(file.read_bytes(), file.suffix)
    for told in remarks(policy):
        note(f"{file.name}: {told}")
    return policy


def _rows(policy: dict[str, Any]) -> list[list[str]]:
    from ..policy import shown_settings

    return [
        [it["layer"], it["match"], shown_settings(it["set"], it["locked"]), ", ".join(it["checks"])]
        for it in policy["layers"]
    ]


def _say(version: str, adopt: str, changed: bool, out: Output) -> None:
    if out.json:
        out.document({"version": version, "changed": changed})
    whose = "runs under way take it up too" if adopt == "running" else "runs under way keep theirs"
    note(
        f"Policy {version} is in force from now on; {whose}." if changed else f"Policy {version} was in force already."
    )


def _text(value: Any) -> str:
    """A value of a policy as a cell."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
