"""Routes: which executor does what a node asks for by capability or by tool, of what workers have published and what
operators have bound.

Pure. A binding counts before everything else. A capability needs one. A tool needs none: whoever offers it in the
version that is asked for does it, of several the first by name. Without a version the newest counts that somebody
offers or that is bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..wire import TOOL, capability_of, read_tool, tool_of, version_numbers
from .capabilities import Binding


class Route(NamedTuple):
    """Who does it.

    Attributes:
        executor: its name.
        what: was found: "capability generate", "tool search@2", "tool search@2, the newest".
        why: that executor, in words.
    """

    executor: str
    what: str
    why: str

    @property
    def rule(self) -> str:
        """The rule that names the executor, in the words of the log."""
        return f"{self.what}: executor {self.executor}, {self.why}"


class Routes:
    """What is known of one installation at one moment; two that know the same are equal.

    Args:
        contracts: executor -> what workers have published of it.
        bindings: capability, or tool as documents write it -> binding.
    """

    def __init__(self, contracts: Mapping[str, Mapping[str, Any]], bindings: Mapping[str, Binding]) -> None:
        self.bindings = bindings
        self.offered = offered_tools(contracts)
        self._found: dict[str, Route] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Routes) and (self.bindings, self.offered) == (other.bindings, other.offered)

    __hash__ = None  # type: ignore[assignment]  # equal by what it holds, which is no key of anything

    def find(self, asked: str) -> Route | None:
        """The route of a name that asks for a capability or a tool; None when nobody is bound, and nobody offers it."""
        found = self._found.get(asked)
        if found is None and (found := self._find(asked)) is not None:
            self._found[asked] = found
        return found

    def _find(self, asked: str) -> Route | None:
        if wanted := capability_of(asked):
            binding = self.bindings.get(wanted)
            return None if binding is None else Route(binding.executor, f"capability {wanted}", binding.words)
        tool = tool_of(asked)
        if (binding := self.bindings.get(asked)) is not None:
            return Route(binding.executor, f"tool {tool}", binding.words)
        if "@" in tool:
            return self._offered(tool)
        versions = self.versions(tool)
        found = self.find(f"{TOOL}{tool}@{versions[-1]}") if versions else None
        return None if found is None else found._replace(what=f"{found.what}, the newest")

    def _offered(self, tool: str) -> Route | None:
        """The route of a tool in a version to which nobody is bound."""
        executors = self.offered.get(tool)
        if not executors:
            return None
        why = "the only one that offers it" if len(executors) == 1 else f"the first by name of {len(executors)}"
        return Route(executors[0], f"tool {tool}", why)

    def versions(self, name: str) -> list[str]:
        """Versions of a tool that are offered or bound, the newest last."""
        parts = (read_tool(it) for it in (*self.offered, *map(tool_of, self.bindings)))
        return sorted({it[1] for it in parts if it and it[0] == name and it[1]}, key=version_numbers)

    def tools(self) -> list[str]:
        """Names of the tools that are offered or bound."""
        parts = (read_tool(it) for it in (*self.offered, *filter(None, map(tool_of, self.bindings))))
        return sorted({it[0] for it in parts if it})


def offered_tools(contracts: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Tool with its version -> the executors that offer it, by name. What is none is left out, for contracts come over
    the wire.

    >>> offered_tools({"web.find": {"tools": ["search@2", "search"]}})
    {'search@2': ['web.find']}
    """
    found: dict[str, list[str]] = {}
    for executor, contract in sorted(contracts.items()):
        told = contract.get("tools")
        for tool in told if isinstance(told, list) else ():
            if isinstance(tool, str) and (read_tool(tool) or ("", ""))[1]:
                found.setdefault(tool, []).append(executor)
    return found
