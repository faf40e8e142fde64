"""The moderation example by itself: its rules, and which way uploads go."""

from __future__ import annotations

import pytest

from scheduler.worker import Permanent
from tasks.examples import moderation
from tests.unit.core.played import Played


@pytest.mark.parametrize(
    ("flagged", "store", "review"), [(False, "dispatched", "skipped"), (True, "skipped", "waiting")]
)
def test_only_what_is_flagged_is_asked_about(flagged: bool, store: str, review: str) -> None:
    """Safe uploads are stored, and no person hears of them."""
    play = Played(moderation.graph())
    play.ends("upload", {"content_id": "c", "text": "x"})
    play.ends("moderate", {"flagged": flagged, "label": "x", "score": 0.5})
    assert (play.state("store"), play.state("review")) == (store, review)
    if not flagged:
        assert (play.state("publish"), play.state("archive")) == ("skipped", "skipped")


def test_the_model_says_what_its_script_has() -> None:
    """And nothing of other texts."""
    [threat] = [it for it in moderation.ITEMS if it.answer == "reject"]
    content = moderation.upload(**threat.inputs)
    assert moderation.moderate(content).label == "threat"
    with pytest.raises(Permanent, match="no answer for the text of c"):
        moderation.moderate(moderation.Content(content_id="c", text="unheard of"))
    assert moderation.put(content, "archived").status == "archived"


def test_every_event_is_of_a_node_that_does_or_asks_something() -> None:
    """The names belong to nodes of the graph, all but the choice."""
    nodes = {it["key"] for it in moderation.graph().document()["nodes"]}
    assert set(moderation.EVENTS) == nodes - {"route"}
