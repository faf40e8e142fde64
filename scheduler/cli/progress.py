"""Progress of a run: bars that move on a terminal, plain lines elsewhere. On standard error, apart from the data.

Elsewhere a line comes when something changed, at most every five seconds, and one at the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.states import FIRST_ENDED, NodeState
from ..errors import escaped
from .follow import Followed
from .output import STATE_STYLES, console_on, counts_in_words, note, span, styled

if TYPE_CHECKING:
    from rich.console import RenderableType

LINE_SECONDS = 5.0
_FRAMES_PER_SECOND = 8
_BAR = 30
_GROUPS = 12
_FLYING = (NodeState.DISPATCHED, NodeState.RUNNING)
_ILL = (NodeState.FAILED, NodeState.UPSTREAM_FAILED, NodeState.CANCELLED)


def watch(followed: Followed, *, each: Callable[[Followed], None] | None = None) -> None:
    """Shows a run until it has ended.

    Args:
        each: called at least twice a second, to look after other things; it may raise.

    Raises:
        KeyboardInterrupt: Ctrl-C; the run goes on.
    """
    show = _bars if sys.stderr.isatty() else _lines
    show(followed, each or (lambda _: None))


def _lines(followed: Followed, each: Callable[[Followed], None]) -> None:
    begun = time.monotonic()
    said_at, said = 0.0, ""
    for _ in followed.follow():
        each(followed)
        line = one_line(followed)
        if line != said and (followed.over or time.monotonic() - said_at >= LINE_SECONDS):
            note(f"{span((time.monotonic() - begun) * 1000):>6}  {line}")
            said_at, said = time.monotonic(), line


def one_line(followed: Followed) -> str:
    """The run in one line: state, how far, counts, the main reason for waiting."""
    line = f"{followed.state}  {followed.done}/{followed.run.n}  {counts_in_words(followed.counts_by_word())}"
    waits = followed.waits.most_common(1)
    return f"{line}  ({waits[0][1]} wait: {escaped(waits[0][0], 120)})" if waits and not followed.over else line


def _bars(followed: Followed, each: Callable[[Followed], None]) -> None:
    from rich.live import Live

    begun = time.monotonic()
    with Live(
        console=console_on(sys.stderr), refresh_per_second=_FRAMES_PER_SECOND, auto_refresh=False, transient=False
    ) as live:
        drawn_at = 0.0
        for _ in followed.follow():
            each(followed)
            now = time.monotonic()
            if now - drawn_at >= 1 / _FRAMES_PER_SECOND or followed.over:
                drawn_at = now
                live.update(_picture(followed, now - begun), refresh=True)


def _picture(followed: Followed, seconds: float) -> RenderableType:
    """One bar a group, then what failed and why something waits."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    shown = list(followed.groups.items())
    for executor, counts in shown[:_GROUPS]:
        total = followed.totals[executor]
        done = sum(counts[FIRST_ENDED:])
        flying = sum(counts[state] for state in _FLYING)
        ill = sum(counts[state] for state in _ILL)
        bar = Text()
        for number, style in ((done - ill, "green"), (ill, "red"), (flying, "cyan")):
            bar.append("━" * round(_BAR * number / total), style)
        bar.truncate(_BAR)
        bar.append("╌" * (_BAR - len(bar)), "dim")
        words = {state.word: counts[state] for state in NodeState if counts[state] and state >= FIRST_ENDED}
        grid.add_row(styled(executor), bar, Text(f"{done}/{total}"), Text(counts_in_words(words), "dim"))
    if len(shown) > _GROUPS:
        grid.add_row(Text(f"… and {len(shown) - _GROUPS} more executors", "dim"))
    head = Text(f"{followed.state}", STATE_STYLES.get(followed.state, ""))
    head.append(f"  {escaped(followed.run.name, 60)}  {followed.id}  {followed.done}/{followed.run.n}", "")
    head.append(f"  {span(seconds * 1000)}", "dim")
    lines: list[RenderableType] = [head, grid]
    for failed in followed.failures:
        key = escaped(failed.node, 60)
        lines.append(Text(f"  {key} attempt {failed.attempt}: {escaped(failed.why, 100)}", "red", no_wrap=True))
    if not followed.over:
        for why, number in followed.waits.most_common(2):
            lines.append(Text(f"  {number} wait: {escaped(why, 100)}", "yellow", no_wrap=True))
    return Group(*lines)
