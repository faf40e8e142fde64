"""Moderation of what people upload: a model looks first, and a person decides about what it has flagged.

    upload -> moderate -> route -- safe -----------------------------------> store
    Content_   Moderation_    `---- flagged -> review -- approve ----------> publish
    Uploaded   Result                          Human_    `-- anything else > archive
                                               Decision

The model is scripted: a table of texts and verdicts. There is no event bus yet, so the events with these names are
lines that `celeriac demo moderation` prints as the run's own log tells that a node has ended.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from scheduler import Graph
from scheduler.worker import Permanent, executor

from .items import Ending, Item

QUICK = "interactive-low"
Status = Literal["stored", "published", "archived"]


class Content(BaseModel):
    """What somebody has uploaded."""

    content_id: str
    text: str


class Verdict(BaseModel):
    """What the model says of it."""

    flagged: bool
    label: str
    score: float


class Stored(BaseModel):
    """Where it is now."""

    content_id: str
    status: Status


MODEL = {
    "A walk along the river, with pictures.": Verdict(flagged=False, label="none", score=0.02),
    "This knife sharpener cuts through anything!": Verdict(flagged=True, label="violence", score=0.71),
    "You are all idiots, and I know where you live.": Verdict(flagged=True, label="threat", score=0.97),
}
"""Text -> what the model answers."""
EVENTS = {
    "upload": "Content_Uploaded",
    "moderate": "Moderation_Result",
    "review": "Human_Decision",
    "store": "Content_Stored",
    "publish": "Content_Published",
    "archive": "Content_Archived",
}
"""Node -> the event that its end is."""
_FLAGGED = ("upload", "moderate", "route: flagged")
_HUMAN = {
    "approve": Ending((*_FLAGGED, "review: approve", "publish"), {"status": "published"}),
    "reject": Ending((*_FLAGGED, "review: reject", "archive"), {"status": "archived"}),
}
_SAFE = {"": Ending(("upload", "moderate", "route: safe", "store"), {"status": "stored"})}
_TEXTS = tuple(MODEL)
ITEMS = (
    Item("safe", {"content_id": "c-1", "text": _TEXTS[0]}, _SAFE),
    Item("flagged, fine", {"content_id": "c-2", "text": _TEXTS[1]}, _HUMAN, "approve", "it praises a tool"),
    Item("flagged, bad", {"content_id": "c-3", "text": _TEXTS[2]}, _HUMAN, "reject", "it threatens people"),
)


@executor("moderation.upload", queue_class=QUICK, timeout=30, purity="pure")
def upload(content_id: str, text: str) -> Content:
    """Take it in."""
    return Content(content_id=content_id, text=text)


@executor("moderation.moderate", queue_class=QUICK, timeout=30, purity="pure")
def moderate(content: Content) -> Verdict:
    """Ask the model.

    Raises:
        Permanent: the script has no answer for such a text.
    """
    if content.text not in MODEL:
        raise Permanent(f"the scripted model has no answer for the text of {content.content_id}")
    return MODEL[content.text]


@executor("moderation.put", queue_class=QUICK, timeout=30, purity="idempotent")
def put(content: Content, status: Status) -> Stored:
    """Put it where it belongs."""
    return Stored(content_id=content.content_id, status=status)


def graph(content_id: str = "c-2", text: str = _TEXTS[1]) -> Graph:
    """What happens to one upload."""
    g = Graph("moderation")
    content = g.add(upload, content_id=content_id, text=text, key="upload")
    verdict = g.add(moderate, content=content, key="moderate")
    route = g.choice("route", {"flagged": verdict.out.flagged}, otherwise="safe")
    g.add(put, content=content, status="stored", after=route["safe"], key="store")
    review = g.approval(
        "review", "May this be published?", shown={"content": content, "verdict": verdict}, after=route["flagged"]
    )
    for key, status, when in (
        ("publish", "published", review.out.choice == "approve"),
        ("archive", "archived", review.out.choice != "approve"),
    ):
        g.add(put, content=content, status=status, when=when, key=key)
    return g


def graph_of(item: Item, _place: Path) -> Graph:
    """The graph of one item."""
    return graph(**item.inputs)
