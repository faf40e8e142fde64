"""The policy of an installation: rules that stand above graphs, as data with a version of its own.

Pure. A policy sets values layer by layer; the most particular layer that says something counts, unless one outside it
has locked the value::

    system -> class -> executor -> workflow -> run -> node

What it comes to for one run is worked out once, when the run takes the policy up, and kept with the run: decisions
rest on that record, never on what is deployed at the moment. A run of an installation without a policy has none of
this. Another value that policies govern is one row of GOVERNED.

A policy's record, as it is deployed, and a run's, as it is kept::

    {"version": "7", "adopt": "new", "layers": [{"layer": "executor", "match": "llm.*", "set": {"max_attempts": 5},
     "locked": [], "checks": ["short"]}], "checks": {"short": {...}}, "mappers": {...}}
    {"version": "7", "profiles": {"0": {"max_attempts": 5}}, "attached": [["executor", "llm.*", ["short"]]],
     "checks": {"short": {...}}, "mappers": {...}}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from .safety import Check

LAYERS = ("system", "class", "executor", "workflow", "run", "node")
"""From the outside in."""
SHARED_LAYERS = LAYERS[:4]
"""Those that a policy sets; run and node say for themselves."""
NEW, RUNNING = "new", "running"
"""Which runs take a policy up: those that begin after it was deployed, or those that are under way, too."""
GOVERNED: Mapping[str, Any] = {
    "max_attempts": 3,
    "base_ms": 1000,
    "factor": 2.0,
    "cap_ms": 60_000,
    "max_losses": 5,
    "never": [],
    "timeout_ms": None,
    "soft_timeout_ms": None,
    "silence_ms": None,
}
"""Field of a profile -> what it is when nobody says anything. A node that says just that says nothing."""
BLOCKED = "blocked by policy "
"""How the note begins that tells why a ready node is held by its run's policy."""
_OF_STEPS = frozenset({"base_ms", "factor", "cap_ms"})
"""What the steps of a retry ladder say for themselves."""


class Source(NamedTuple):
    """One layer's word on a value.

    Attributes:
        layer: one of LAYERS, or "default".  by: the same in words, such as "executor llm.*".
    """

    layer: str
    by: str
    value: Any
    locked: bool = False
    policy: bool = False


class Setting(NamedTuple):
    """What a value comes to, and whose word it is; `others` had a word too, from the outside in."""

    value: Any
    source: Source
    others: tuple[Source, ...]


class Place(NamedTuple):
    """Where a node's profile stands among the layers.

    Attributes:
        workflow: name of its graph.  executor, queue_class: of the profile; the class as contracts say it now.
        declared: what the executor's contract says, by GOVERNED's names.
        of_class: what the class's table in queues.toml says, by the same.
    """

    workflow: str
    executor: str
    queue_class: str
    declared: Mapping[str, Any]
    of_class: Mapping[str, Any]


def place_of(
    workflow: str, executor: str, queue_class: str, contract: Mapping[str, Any], class_timeout_ms: int | None
) -> Place:
    """Where a profile stands, by what its executor has published and what its class is declared to be."""
    declared = {
        f"{name}_ms": round(seconds * 1000)
        for name in ("timeout", "soft_timeout")
        if (seconds := contract.get(f"{name}_seconds")) is not None
    }
    of_class = {} if class_timeout_ms is None else {"timeout_ms": class_timeout_ms}
    return Place(workflow, executor, queue_class, declared, of_class)


def effective(profile: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], place: Place) -> dict[str, Setting]:
    """What each governed value of a profile comes to. O(layers).

    Args:
        profile: of a compiled graph.
        layers: of a policy's record.
        place: where the profile stands.
    """
    found = {}
    for name, default in GOVERNED.items():
        words = list(_words(profile, layers, place, name, default))
        locked = next((it for it in words if it.locked), None)
        winner = locked or words[-1]
        found[name] = Setting(winner.value, winner, tuple(it for it in words if it is not winner))
    return found


def _words(
    profile: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], place: Place, name: str, default: Any
) -> Iterator[Source]:
    """Every word on one value, from the outside in."""
    laddered = bool(profile.get("steps"))
    yield Source("default", "default", default)
    for layer in SHARED_LAYERS:
        if layer == "class" and place.of_class.get(name) is not None:
            yield Source(layer, f"class {place.queue_class} (queues.toml)", place.of_class[name])
        if layer == "executor" and place.declared.get(name) is not None:
            yield Source(layer, f"executor {place.executor} (its declaration)", place.declared[name])
        for it in layers:
            if (
                it["layer"] == layer
                and name in it["set"]
                and matches(it, place)
                and not (laddered and name in _OF_STEPS)
            ):
                by = layer if layer == "system" else f"{layer} {it['match']}"
                yield Source(layer, by, it["set"][name], name in it["locked"], policy=True)
    said = profile.get(name, default)
    if (said or default) != default or (laddered and name == "max_attempts"):
        yield Source("node", "node", said)


def matches(layer: Mapping[str, Any], place: Place) -> bool:
    """Whether a layer of a policy concerns what stands there."""
    names = {"class": place.queue_class, "executor": place.executor, "workflow": place.workflow}
    kind = layer["layer"]
    return kind == "system" or fnmatchcase(names[kind], layer["match"])


def resolved(
    policy: Mapping[str, Any],
    workflow: str,
    profiles: Sequence[Mapping[str, Any]],
    place_of: Callable[[int], Place],
    mapped: Sequence[str] = (),
) -> dict[str, Any]:
    """What a policy comes to for a run: the record that is kept with it. O(profiles x layers).

    Args:
        policy: its record.
        workflow: name of the run's graph.
        profiles: of the compiled graph.
        place_of: number of a profile -> where it stands.
        mapped: names of the mappers that the graph uses; one that the policy does not have is left out.
    """
    changes: dict[str, dict[str, Any]] = {}
    for number, profile in enumerate(profiles):
        if not profile["executor"]:
            continue  # a choice or a wait: no work
        settings = effective(profile, policy["layers"], place_of(number))
        found = {name: it.value for name, it in settings.items() if it.source.policy}
        hard = found.get("timeout_ms", profile.get("timeout_ms"))
        soft = found.get("soft_timeout_ms", profile.get("soft_timeout_ms"))
        if hard is not None and soft is not None and soft >= hard:
            found["soft_timeout_ms"] = None  # it could not warn of anything
        if found:
            changes[str(number)] = found
    attached = []
    for layer in policy["layers"]:
        kind, match = layer["layer"], layer["match"]
        if layer["checks"] and (kind != "workflow" or fnmatchcase(workflow, match)):
            attached.append(
                ["", "*", layer["checks"]] if kind in ("system", "workflow") else [kind, match, layer["checks"]]
            )
    wanted = {name for _, _, names in attached for name in names}
    return {
        "version": policy["version"],
        "profiles": changes,
        "attached": attached,
        "checks": {name: it for name, it in policy["checks"].items() if name in wanted},
        "mappers": {name: policy["mappers"][name] for name in mapped if name in policy["mappers"]},
    }


@dataclass(slots=True)
class RunPolicy:
    """The policy that a run has taken up.

    Attributes:
        version: of the policy.
        record: as it is kept with the run.
    """

    version: str
    record: Mapping[str, Any]
    _checks: dict[str, Check] = field(default_factory=dict)
    _found: dict[tuple[str, str], tuple[Check, ...]] = field(default_factory=dict)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RunPolicy:
        """Read one as it is kept; fields of later versions are ignored."""
        checks = {name: Check.from_record(name, it) for name, it in record["checks"].items()}
        return cls(str(record["version"]), record, checks)

    def changed(self, number: int, profile: Mapping[str, Any]) -> Mapping[str, Any]:
        """The profile of this number, as the policy has it."""
        return {**profile, **self.record["profiles"].get(str(number), {})}

    def checks_of(self, executor: str, queue_class: str) -> tuple[Check, ...]:
        """The safety checks of whatever this executor does in this class, in the policy's order, each once."""
        asked = executor, queue_class
        if not self._checks:
            return ()
        if asked not in self._found:
            names = {"": "", "executor": executor, "class": queue_class}
            wanted = [
                name
                for kind, match, checks in self.record["attached"]
                if fnmatchcase(names[kind], match)
                for name in checks
            ]
            self._found[asked] = tuple(self._checks[name] for name in dict.fromkeys(wanted))
        return self._found[asked]
