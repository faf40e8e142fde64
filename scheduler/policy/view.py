"""What counts for a node, value by value, and whose word each is.

Pure. From the same function that resolves a policy for a run, so what is shown is what is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..core.policies import GOVERNED, Place, Setting, effective
from .document import NAMES


class Line(NamedTuple):
    """One value that counts for a node.

    Attributes:
        name: as documents write it.  value: in the document's unit, seconds for durations; None for none.
        layer: default, system, class, executor, workflow, run or node.  source: the same in words.
        locked: whether no inner layer may change it.
        overruled: what other layers said, as "source: value", from the outside in.
    """

    name: str
    value: Any
    layer: str
    source: str
    locked: bool = False
    overruled: tuple[str, ...] = ()


def view(profile: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], place: Place) -> list[Line]:
    """What counts for the nodes of a profile, as the layers of a policy have it.

    Args:
        profile: of a compiled graph.
        layers: of a policy's record; none for no policy.
        place: where the profile stands.
    """
    settings = effective(profile, layers, place)
    return [_line(name, settings[name]) for name in GOVERNED]


def _line(name: str, setting: Setting) -> Line:
    source = setting.source
    told = [it for it in setting.others if it.layer != "default"]
    overruled = tuple(f"{it.by}: {_shown(name, it.value)}" for it in told)
    return Line(NAMES[name], _shown(name, setting.value), source.layer, source.by, source.locked, overruled)


def shown_settings(values: Mapping[str, Any], locked: Sequence[str]) -> str:
    """What a layer sets, in a line.

    >>> shown_settings({"max_attempts": 5, "timeout_ms": 1500}, ["timeout_ms"])
    'retry.max_attempts = 5; timeout_seconds = 1.5 (locked)'
    """
    told = (f"{NAMES[it]} = {_shown(it, values[it])}{' (locked)' if it in locked else ''}" for it in values)
    return "; ".join(told)


def _shown(name: str, value: Any) -> Any:
    """A value in the document's unit."""
    return value / 1000 if name.endswith("_ms") and value is not None else value
