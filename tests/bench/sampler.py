"""Where do the scheduler's microseconds go? A sampler of CPU time, and the rooms that its samples fall into.

The kernel sends a signal per tick of CPU time used (4 ms at 250 Hz); the stack at that instant is noted. That costs
next to nothing, so the shares are those of the undisturbed loop. A sample belongs to the innermost function of the
scheduler that has a room; what libraries and the interpreter do is laid to whom they do it for.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

TICK_SECONDS = 0.002

ROOMS: dict[str, str] = {
    # most particular first: "file:function", then "file", then "folder/"
    "core/run.py:load": "load",
    "core/run.py:_take_page": "load",
    "core/run.py:_finish_edges": "load",
    "core/run.py:_take_record": "load",
    "core/run.py:record": "commit",
    "core/decide.py:_opened": "load",
    "store/loading.py": "load",
    "service/loading.py": "load",
    "core/inputs.py": "publish",
    "core/": "decide",
    "service/intake.py": "read",
    "service/overdue.py": "read",
    "service/apply.py": "read",
    "service/loop.py:_read": "read",
    "store/inboxes.py": "read",
    "wire.py": "read",
    "service/admission.py": "admit",
    "service/dispatch.py": "admit",
    "service/outbox.py": "publish",
    "service/publisher.py": "publish",
    "service/transport.py": "publish",
    "service/announcer.py": "publish",
    "service/batch.py": "commit",
    "service/owned.py:commit": "commit",
    "store/commits.py": "commit",
    "service/shards.py": "own",
    "store/owners.py": "own",
}
ORDER = ("load", "read", "decide", "admit", "commit", "publish", "own", "other")

Stack = tuple[str, ...]
"""Functions as "file:function", innermost first; files relative to the scheduler, others by their last two parts."""


class Sampler:
    """Samples of the main thread while the context is open."""

    def __init__(self) -> None:
        self.stacks: Counter[Stack] = Counter()
        self._names: dict[object, str] = {}

    def __enter__(self) -> Self:
        signal.signal(signal.SIGPROF, self._note)
        signal.setitimer(signal.ITIMER_PROF, TICK_SECONDS, TICK_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)

    def _note(self, _signal: int, frame: FrameType | None) -> None:
        names: list[str] = []
        while frame is not None:
            code = frame.f_code
            name = self._names.get(code)
            if name is None:
                name = self._names[code] = f"{_short(code.co_filename)}:{code.co_name}"
            names.append(name)
            frame = frame.f_back
        self.stacks[tuple(names)] += 1

    def write(self, path: Path) -> None:
        """Save the samples."""
        path.write_text(json.dumps([[list(stack), count] for stack, count in self.stacks.items()]))


def read(path: Path) -> Counter[Stack]:
    """Samples as `Sampler.write` saved them."""
    return Counter({tuple(stack): count for stack, count in json.loads(path.read_text())})


def _short(path: str) -> str:
    parts = Path(path).parts
    if "scheduler" in parts:
        return "/".join(parts[len(parts) - parts[::-1].index("scheduler") :])
    return "~" + "/".join(parts[-2:])


def room_of(stack: Iterable[str]) -> tuple[str, str]:
    """(room, the scheduler's function that works there) of one sample.

    >>> room_of(["~redis/client.py:execute", "store/commits.py:send_commits", "service/owned.py:commit"])
    ('commit', 'store/commits.py:send_commits')
    """
    for name in stack:
        file, _, function = name.rpartition(":")
        room = ROOMS.get(name) or ROOMS.get(file) or ROOMS.get(file.partition("/")[0] + "/")
        if room is not None:
            return room, f"{file}:{function}"
    return "other", next(iter(stack), "?")


def rooms(stacks: Mapping[Stack, int]) -> dict[str, Counter[str]]:
    """Room -> function and what it calls, with the number of samples; rooms in the order of the loop."""
    found: dict[str, Counter[str]] = {room: Counter() for room in ORDER}
    for stack, count in stacks.items():
        room, function = room_of(stack)
        leaf = stack[0] if stack else "?"
        found[room][function if leaf == function else f"{function} > {leaf.lstrip('~')}"] += count
    return {room: counts for room, counts in found.items() if counts}
