"""`celeriac capabilities ...`: what nodes may ask for instead of an executor, and who does it now.

A binding counts for every node that is sent from then on, of runs in flight too; each change is kept with who and why.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from ..errors import InvalidValue, UnknownExecutor
from ..wire import CAPABILITY_NAME, tool_of
from .changes import history_option, login_of, show_changes, who_and_why
from .output import Output, note, output_option
from .place import Place, place_options, runs_of

if TYPE_CHECKING:
    from ..settings import Settings
    from ..store.capabilities import Binding, Capabilities
    from ..store.runs import Runs


@click.group("capabilities")
def capabilities_command() -> None:
    """Which executor does what nodes ask for by capability."""


@capabilities_command.command("ls")
@history_option
@place_options
@output_option
def ls(history: bool, place: Place, out: Output) -> None:
    """Capabilities, the executor that each is bound to, and all that offer it."""
    with place.for_reading() as settings:
        runs = runs_of(settings)
        store = store_of(runs, settings)
        if history:
            changes = [it for it in store.history() if not tool_of(it.capability)]
            show_changes(out, (it._asdict() for it in changes), capability="", executor="(unbound)")
            return
        bound = {name: it for name, it in store.bindings().items() if not tool_of(name)}
        offered = _offered(runs)
    names = sorted({*bound, *offered})
    if out.json:
        out.document([_document(name, bound.get(name), offered.get(name, [])) for name in names])
        return
    rows = []
    for name in names:
        it = bound.get(name)
        who, rule = (it.executor, it.words) if it is not None else ("(unbound)", "")
        rows.append([name, who, rule, ", ".join(offered.get(name, []))])
    out.table(["capability", "executor", "rule", "offered by"], rows)


def _document(name: str, binding: Binding | None, offered: list[str]) -> dict[str, Any]:
    """One capability for JSON."""
    found = {} if binding is None else {"executor": binding.executor, "rule": binding.words, "by": binding.by}
    since = {} if binding is None or not binding.at_ms else {"since_ms": binding.at_ms, "reason": binding.reason}
    return {"capability": name, "executor": None, **found, **since, "offered_by": offered}


@capabilities_command.command("bind")
@click.argument("capability")
@click.argument("executor")
@who_and_why
@click.option("--force", is_flag=True, help="Also when no worker has said that the executor can do it.")
@place_options
@output_option
def bind(capability: str, executor: str, by: str | None, reason: str, force: bool, place: Place, out: Output) -> None:
    """Nodes that ask for CAPABILITY go to EXECUTOR from now on; what has been sent stays where it is."""
    _check_name(capability)
    settings = place.located()
    runs = runs_of(settings)
    offered, contracts = _offered(runs), runs.contracts()
    if not force:
        if executor not in contracts:
            raise UnknownExecutor(executor, "EXECUTOR", contracts)
        if executor not in offered.get(capability, []):
            known = ", ".join(offered.get(capability, [])) or "none"
            remedy = f"Known for it: {known}. Declare it (@executor(capabilities=[...])), or use --force."
            raise InvalidValue("EXECUTOR", executor, f"does not say that it can {capability}", remedy)
    store_of(runs, settings).bind(capability, executor, login_of(by), reason)
    if out.json:
        out.document({"capability": capability, "executor": executor})
    note(f"{capability} is done by {executor} from now on.")


@capabilities_command.command("unbind")
@click.argument("capability")
@who_and_why
@place_options
@output_option
def unbind(capability: str, by: str | None, reason: str, place: Place, out: Output) -> None:
    """Take a binding back: what config/capabilities.toml says counts again, else such nodes wait."""
    _check_name(capability)
    settings = place.located()
    store = store_of(runs_of(settings), settings)
    was = store.unbind(capability, login_of(by), reason)
    left = store.bindings().get(capability)
    if out.json:
        out.document({"capability": capability, "unbound": was, "executor": left.executor if left else None})
    what = f"{left.executor} by configuration" if left else "bound to no executor: nodes that ask for it wait"
    note(f"{capability} {'is' if was else 'was not bound here; it is'} {what}.")


def store_of(runs: Runs, settings: Settings) -> Capabilities:
    """The bindings of an installation."""
    from ..store.capabilities import Capabilities

    return Capabilities(runs.client, runs.namespace, settings.capabilities)


def _offered(runs: Runs) -> dict[str, list[str]]:
    """Capability -> executors that say they can do it."""
    found: dict[str, list[str]] = {}
    for name, contract in sorted(runs.contracts().items()):
        for capability in contract.get("capabilities") or ():
            found.setdefault(str(capability), []).append(name)
    return found


def _check_name(capability: str) -> None:
    if not re.fullmatch(CAPABILITY_NAME, capability):
        raise InvalidValue(
            "CAPABILITY", capability, "names no capability", "Write letters, digits, and the characters _ . -"
        )
