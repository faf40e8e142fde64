"""Who has published what a node asks for: an executor by its name, or all that have a capability or a tool.

Pure. Contracts came over the wire, so what is not of the expected form is taken as nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UnknownExecutor, UnknownTool
from ..wire import CAPABILITY, capability_of, read_tool, tool_of, version_numbers

Contracts = Mapping[str, Mapping[str, Any]]


def able(contracts: Contracts, executor: str) -> list[str]:
    """The executors that may do it: this one, or all that have the capability or the tool that it asks for.

    >>> found = {"a": {"tools": ["t@1"]}, "b": {"tools": ["t@2"]}}
    >>> able(found, "tool:t@2"), able(found, "tool:t"), able(found, "c")
    (['b'], ['a', 'b'], ['c'])
    """
    if wanted := capability_of(executor):
        return [name for name, found in contracts.items() if wanted in _told(found, "capabilities")]
    if tool := tool_of(executor):
        return [name for name, found in contracts.items() if _offers(found, tool)]
    return [executor]


def check_known(contracts: Contracts, executor: str, at: str) -> None:
    """Whether some worker has it.

    Raises:
        UnknownExecutor: none has; UnknownTool for a tool.
    """
    if tool_of(executor):
        if not able(contracts, executor):
            raise _unknown_tool(contracts, executor, at)
    elif capability_of(executor):
        if not able(contracts, executor):
            known = {CAPABILITY + it for found in contracts.values() for it in _told(found, "capabilities")}
            raise UnknownExecutor(executor, at, sorted(known))
    elif executor not in contracts:
        raise UnknownExecutor(executor, at, contracts)


def _unknown_tool(contracts: Contracts, executor: str, at: str) -> UnknownTool:
    """The error, with the versions of the tool that are known, else the tools that are."""
    parts = (read_tool(it) for found in contracts.values() for it in _told(found, "tools"))
    known = [it for it in parts if it is not None]
    asked = tool_of(executor).partition("@")[0]
    versions = {version for name, version in known if name == asked and version}
    return UnknownTool(executor, at, sorted(versions, key=version_numbers), sorted({name for name, _ in known}))


def _offers(contract: Mapping[str, Any], tool: str) -> bool:
    """Whether an executor offers a tool: in the version that is asked for, or in any."""
    if "@" in tool:
        return tool in _told(contract, "tools")
    return any((read_tool(it) or ("", ""))[0] == tool for it in _told(contract, "tools"))


def _told(contract: Mapping[str, Any], name: str) -> list[str]:
    """A list of texts in a contract."""
    found = contract.get(name)
    return [it for it in found if isinstance(it, str)] if isinstance(found, list) else []
