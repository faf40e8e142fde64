"""What an example is tried on, and what must become of each: the data that `celeriac demo NAME` runs and judges by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Ending(NamedTuple):
    """How a run must end.

    Attributes:
        path: its nodes in the order in which they ended, those that were passed over left out; a choice and an approval
            with what was chosen ("route: safe"), a node of several attempts with their number ("generate #2"), a failed
            one as such ("generate #3 failed").
        output: what the last of them must have given, or the part of it that counts.
    """

    path: tuple[str, ...]
    output: Mapping[str, Any]


class Item(NamedTuple):
    """One run of an example.

    Attributes:
        inputs: of the example's function `graph`.
        ends: choice -> ending, of what a person is asked; "" when nobody is to be asked.
        answer: the choice when nobody is at the terminal.
        rule: why that.
    """

    name: str
    inputs: Mapping[str, Any]
    ends: Mapping[str, Ending]
    answer: str = ""
    rule: str = ""
