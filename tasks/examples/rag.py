"""Questions answered from what is known: retrieve, generate, validate, and a person when the model cannot do it.

    retrieve -> sufficient -- enough ------------------> generate (validated) -----------> reply
                     `------- thin -> retrieve wider ------^  | three drafts refused        ^
                                                              `-> person (one_failed) ------'

A draft that does not pass the validator is no output: the attempt fails, and the retry ladder runs `generate` again
with other parameters, each step of it written into the run's log. After the third draft the failure goes another way,
to a person. The model is scripted: a table of what it says to which question with which parameters.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from scheduler import Graph, Retry, again, changed, size
from scheduler.worker import ContractBroken, Permanent, executor

from .items import Ending, Item

QUICK = "interactive-low"
NEEDED = 2
"""So many passages are enough."""
SHELVES = ("handbook", "archive", "letters")
Style = Literal["free", "quote"]


class Passage(BaseModel):
    """Something that is known, and where it stands."""

    source: str
    text: str


class Found(BaseModel):
    """What a retrieval has brought."""

    passages: list[Passage]


class Draft(BaseModel):
    """An answer that has passed the validator, with the parameters that gave it."""

    text: str
    temperature: float
    style: Style


class Reply(BaseModel):
    """What the asker gets, and from whom."""

    by: Literal["model", "desk", "nobody"]
    text: str


KNOWN = (
    Passage(source="handbook 4", text="The kettle has a warranty of two years."),
    Passage(source="handbook 9", text="A warranty begins on the day of delivery; a receipt proves it for the kettle."),
    Passage(source="handbook 12", text="The toaster takes slices of up to 30 mm."),
    Passage(source="handbook 13", text="Slices of frozen bread need the second level of the toaster."),
    Passage(source="handbook 20", text="The filter of the coffee machine is sold in boxes of five."),
    Passage(
        source="archive 77", text="Until 2019 the coffee machine had a filter of metal, which is not sold any more."
    ),
    Passage(source="letters 5", text="A customer cleans the metal filter with vinegar every month."),
)
"""The first word of a source is its shelf."""
_KETTLE, _TOASTER = "How long is the warranty of the kettle?", "Which slices may go into the toaster?"
_FILTER, _METAL = "Is the metal filter still sold?", "How is a metal filter cleaned?"
_VOID = "Does the warranty of the kettle end when it is descaled?"
MODEL: dict[tuple[str, float, Style], str] = {
    (_KETTLE, 0.8, "free"): "Two years from the day of delivery [handbook 4][handbook 9].",
    (_FILTER, 0.8, "free"): "No, not since 2019 [archive 77].",
    (_TOASTER, 0.8, "free"): "All of them, I should think.",
    (_TOASTER, 0.0, "free"): "Those of up to 30 mm [handbook 12].",
    (_METAL, 0.8, "free"): "With a soft brush [handbook 99].",
    (_METAL, 0.0, "free"): "With vinegar.",
    (_METAL, 0.0, "quote"): '"A customer cleans the metal filter with vinegar every month." [letters 5]',
    (_VOID, 0.8, "free"): "Certainly not!",
    (_VOID, 0.0, "free"): "The handbook says that it does [handbook 41].",
    (_VOID, 0.0, "quote"): '"Descaling ends the warranty." [handbook 4]',
}
"""(Question, temperature, style) -> what the model says."""


def _item(name: str, question: str, *path: str, by: str = "model", **output: Any) -> Item:
    return Item(name, {"question": question}, {"": Ending((*path, "reply"), {"by": by, **output})})


_ENOUGH = ("retrieve", "sufficient: enough")
_THIN = ("retrieve", "sufficient: thin", "retrieve wider")
_ASKED = (*_ENOUGH, "generate #3 failed")
ITEMS = (
    _item("enough is known", _KETTLE, *_ENOUGH, "generate", text=MODEL[_KETTLE, 0.8, "free"]),
    _item("a wider look", _FILTER, *_THIN, "generate", text=MODEL[_FILTER, 0.8, "free"]),
    _item("second draft", _TOASTER, *_ENOUGH, "generate #2", text=MODEL[_TOASTER, 0.0, "free"]),
    _item("wider, third draft", _METAL, *_THIN, "generate #3", text=MODEL[_METAL, 0.0, "quote"]),
    Item(
        "no draft will do",
        {"question": _VOID},
        {
            "desk": Ending((*_ASKED, "person: desk", "reply"), {"by": "desk"}),
            "drop": Ending((*_ASKED, "person: drop", "reply"), {"by": "nobody"}),
        },
        "desk",
        "a warranty is a matter of money",
    ),
)


@executor("rag.retrieve", queue_class=QUICK, timeout=30, purity="pure")
def retrieve(question: str, shelves: list[str]) -> Found:
    """What on these shelves shares two or more words with the question."""
    asked = _words(question)
    shelved = [it for it in KNOWN if it.source.split()[0] in shelves]
    return Found(passages=[it for it in shelved if len(asked & _words(it.text)) >= 2])


@executor("rag.generate", queue_class=QUICK, timeout=30, purity="pure")
def generate(question: str, near: Found, wide: Found | None, temperature: float, style: Style) -> Draft:
    """Ask the model, and hand out what it says only when it passes the validator.

    Raises:
        ContractBroken: it does not.
        Permanent: the script has no answer for that.
    """
    text = MODEL.get((question, temperature, style))
    if text is None:
        raise Permanent(
            f"the scripted model has no answer for {question!r} at temperature {temperature}, style {style}"
        )
    wrong = problem_of(text, (wide or near).passages)
    if wrong:
        raise ContractBroken(f"the draft {wrong} (temperature {temperature}, style {style})")
    return Draft(text=text, temperature=temperature, style=style)


@executor("rag.reply", queue_class=QUICK, timeout=30, purity="idempotent")
def reply(draft: Draft | None, decision: dict[str, Any] | None) -> Reply:
    """Tell the asker. There is a draft, or else what a person has decided."""
    if draft is not None:
        return Reply(by="model", text=draft.text)
    if decision is not None and decision["choice"] == "desk":
        return Reply(by="desk", text="The desk will write to you.")
    return Reply(by="nobody", text="We do not know.")


def problem_of(text: str, passages: list[Passage]) -> str:
    """The validator: what is wrong with a draft; "" for nothing.

    >>> problem_of("It is so [a 1].", [Passage(source="a 1", text="It is so.")])
    ''
    """
    known = {it.source: it.text for it in passages}
    cited = re.findall(r"\[([^]]+)]", text)
    if not cited:
        return "cites nothing"
    if unknown := [it for it in cited if it not in known]:
        return f"cites {', '.join(unknown)}, which was not retrieved"
    quoted = re.findall(r'"([^"]+)"', text)
    if missing := [it for it in quoted if not any(it in known[source] for source in cited)]:
        return f"quotes {missing[0]!r}, which does not stand there"
    return ""


def graph(question: str = _KETTLE) -> Graph:
    """One question."""
    g = Graph("rag")
    near = g.add(retrieve, question=question, shelves=SHELVES[:1], key="retrieve")
    known = g.choice("sufficient", {"enough": size(near.out.passages) >= NEEDED}, otherwise="thin")
    wide = g.add(retrieve, question=question, shelves=SHELVES, after=known["thin"], key="retrieve wider")
    draft = g.add(
        generate,
        question=question,
        near=near,
        wide=wide,
        temperature=0.8,
        style="free",
        trigger_rule="none_failed_min_one_success",
        retry=Retry(steps=[again(1), changed({"temperature": 0.0}), changed({"style": "quote"})]),
        key="generate",
    )
    person = g.approval(
        "person",
        "The model has no draft that can be sent. Who answers?",
        choices=["desk", "drop"],
        shown={"question": question, "error": draft.error},
        trigger_rule="one_failed",
    )
    g.returns(g.add(reply, draft=draft, decision=person, trigger_rule="all_done", key="reply"))
    return g


def graph_of(item: Item, _place: Path) -> Graph:
    """The graph of one item."""
    return graph(**item.inputs)


def _words(text: str) -> set[str]:
    return {it for it in re.findall(r"[a-z]+", text.lower()) if len(it) > 4}
