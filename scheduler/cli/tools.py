"""`celeriac tools ...`: the registry of tools: which executor does a tool in a version, and why that one.

What workers have published counts, and before it what an operator binds; a change counts for every node that is sent
from then on, of runs in flight too, and is kept with who and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from ..errors import InvalidValue, UnknownExecutor
from ..wire import TOOL, read_tool, tool_of
from .capabilities import store_of
from .changes import history_option, login_of, show_changes, who_and_why
from .output import Output, note, output_option
from .place import Place, place_options, runs_of

if TYPE_CHECKING:
    from ..store.routes import Routes


@click.group("tools")
def tools_command() -> None:
    """Which executor is which tool, in which version."""


@tools_command.command("ls")
@history_option
@place_options
@output_option
def ls(history: bool, place: Place, out: Output) -> None:
    """Tools by version, who does each, why, and all that offer it; a name alone stands for its newest version."""
    from ..store.routes import Routes

    with place.for_reading() as settings:
        runs = runs_of(settings)
        store = store_of(runs, settings)
        if history:
            changes = [it for it in store.history() if tool_of(it.capability)]
            rows = ({"tool": tool_of(it.capability), **it._asdict()} for it in changes)
            told = ({name: it[name] for name in it if name != "capability"} for it in rows)
            show_changes(out, told, tool="", executor="(unbound)")
            return
        routes = Routes(runs.contracts(), store.bindings())
    found = list(_rows(routes))
    if out.json:
        out.document(found)
        return
    out.table(
        ["tool", "executor", "rule", "offered by"],
        [[it["tool"], it["executor"], it["rule"], ", ".join(it["offered_by"])] for it in found],
    )


def _rows(routes: Routes) -> Iterator[dict[str, Any]]:
    """Every tool without and with each of its versions, for JSON."""
    for name in routes.tools():
        for tool in (name, *(f"{name}@{version}" for version in routes.versions(name))):
            if (route := routes.find(TOOL + tool)) is not None:
                newest = f"{route.what.removeprefix('tool ')}; " if route.what != f"tool {tool}" else ""
                rule, offered = f"{newest}{route.why}", routes.offered.get(tool, [])
                yield {"tool": tool, "executor": route.executor, "rule": rule, "offered_by": offered}


@tools_command.command("bind")
@click.argument("tool")
@click.argument("executor")
@who_and_why
@click.option("--force", is_flag=True, help="Also when no worker has said that the executor offers it.")
@place_options
@output_option
def bind(tool: str, executor: str, by: str | None, reason: str, force: bool, place: Place, out: Output) -> None:
    """TOOL (search@2, or search for nodes that name no version) is done by EXECUTOR from now on."""
    _check_name(tool)
    settings = place.located()
    runs = runs_of(settings)
    contracts = runs.contracts()
    if not force:
        if executor not in contracts:
            raise UnknownExecutor(executor, "EXECUTOR", contracts)
        if not _offers(contracts[executor], tool):
            remedy = f'Declare it (@executor(tools=["{_example(tool)}"])), or use --force.'
            raise InvalidValue("EXECUTOR", executor, f"does not say that it offers {tool}", remedy)
    store_of(runs, settings).bind(TOOL + tool, executor, login_of(by), reason)
    if out.json:
        out.document({"tool": tool, "executor": executor})
    note(f"{tool} is done by {executor} from now on.")


@tools_command.command("unbind")
@click.argument("tool")
@who_and_why
@place_options
@output_option
def unbind(tool: str, by: str | None, reason: str, place: Place, out: Output) -> None:
    """Take a binding back: configuration counts again, then what workers have published."""
    from ..store.routes import Routes

    _check_name(tool)
    settings = place.located()
    runs = runs_of(settings)
    store = store_of(runs, settings)
    was = store.unbind(TOOL + tool, login_of(by), reason)
    left = Routes(runs.contracts(), store.bindings()).find(TOOL + tool)
    if out.json:
        out.document({"tool": tool, "unbound": was, "executor": left.executor if left else None})
    what = f"done by {left.executor}, {left.why}" if left else "offered by nobody: nodes that ask for it fail"
    note(f"{tool} {'is' if was else 'was not bound here; it is'} {what}.")


def _offers(contract: Mapping[str, Any], tool: str) -> bool:
    """Whether an executor says that it is this tool, in this version if one is said."""
    told = [it for it in contract.get("tools") or () if isinstance(it, str)]
    return tool in told or any(it.partition("@")[0] == tool for it in told)


def _example(tool: str) -> str:
    return tool if "@" in tool else f"{tool}@1"


def _check_name(tool: str) -> None:
    if read_tool(tool) is None:
        raise InvalidValue("TOOL", tool, "names no tool", 'Write "search@2", or "search" for its newest version')
