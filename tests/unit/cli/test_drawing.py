"""Graphs as text, Mermaid and Graphviz: what is no work but a decision is seen at once."""

from __future__ import annotations

from scheduler.cli.drawing import dot, mermaid, shape_of, text
from scheduler.core.run import Run
from scheduler.graph import Graph


def branched() -> Run:
    """One decision among work."""
    g = Graph("g")
    score = g.add("judge.score", key="score")
    route = g.choice("route", {"good": score.out.value >= 0.8}, otherwise="poor")
    g.add("mail.send", key="praise", after=route["good"])
    g.add("mail.send", key="alarm", after=score.when(score.out.flag == "red"), when=score.out.value < 2)
    g.stop_when(score.out.value > 0.99)
    return shape_of(g.compile())


def test_decisions_and_work_look_different() -> None:
    """A choice is marked, a diamond elsewhere; what guards a node or an edge is written at it."""
    assert text(branched()).splitlines() == [
        "  1  score    judge.score",
        "  2  ? route  choice       <- score  when good: score.output.value >= 0.8",
        '  2  alarm    mail.send    <- score (score.output.flag == "red")  when score.output.value < 2',
        "  3  praise   mail.send    <- route (good)",
        "stops when score.output.value > 0.99: succeeded",
    ]
    drawn = mermaid(branched())
    assert 'n1{"route<br/>choice<br/>when good#58; score.output.value #62;#61; 0.8"}' in drawn
    assert "n1 -->|good| n2" in drawn
    drawn = dot(branched())
    assert 'n1 [label="route\\nchoice\\nwhen good: score.output.value >= 0.8", shape=diamond];' in drawn
    assert 'n1 -> n2 [label="good"];' in drawn
