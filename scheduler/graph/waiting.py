"""The builder's nodes that are no work but a wait: timers, signals, approvals.

Pure. A part of `Graph`, apart because it answers one question: how do I wait for something?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..errors import quoted
from .branching import Branching, branching, race_of
from .formulas import formula_of
from .handles import Node
from .inputs import NO_INPUTS
from .limits import Duration
from .policy import DEFAULT_RULE, choice_policy, rule_of
from .spec import Spec, labels_of
from .values import Walk, kwargs_of
from .waits import ANYBODY, DEFAULT_CHOICES, Wait, approval, signal, timer

if TYPE_CHECKING:
    from .builder import After, Condition, Graph


class WaitingNodes:
    """Methods of `Graph` that add waits, and races of what waits or works.

    Those that wait take key, after, when, trigger_rule and labels as `add` does.
    """

    def timer(
        self,
        key: str,
        wait: Duration | None = None,
        /,
        *,
        until: datetime | str | None = None,
        after: After = (),
        trigger_rule: str = DEFAULT_RULE,
        when: Condition | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Node[dict[str, int]]:
        """Adds a node that is over after a time, or at an instant; of both the later one counts.

        No worker and no message is held meanwhile, may it be 90 days. Its output is {"due_ms": instant}.

        Args:
            wait: seconds, "20s", "90d" or a timedelta, from when its rule lets it start.
            until: a datetime with a zone, or its ISO 8601 text.

        Raises:
            GraphError: neither is given, or one is none.
        """
        made = timer(wait, until, f"nodes[{quoted(str(key))}].wait")
        return self._add_wait(key, made, None, after, trigger_rule, when, labels)

    def signal(
        self,
        key: str,
        /,
        *,
        name: str | None = None,
        schema: Mapping[str, Any] | None = None,
        transient: bool = False,
        within: Duration | None = None,
        default: Any = ...,
        after: After = (),
        trigger_rule: str = DEFAULT_RULE,
        when: Condition | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Node[Any]:
        """Adds a node that waits for a signal: `run.signal(name, payload)`. Its output is the payload.

        One signal ends one wait. A signal that comes before anybody waits for it is kept, unless it is transient.

        Args:
            name: of the signal; default: the key.
            schema: JSON Schema of the payload; others are refused.
            transient: a signal that nobody waits for at that moment is lost.
            within: how long to wait; then `default` is the output, or the node fails.
            default: what stands for the payload then, any JSON value.

        Raises:
            GraphError: something of it is not as it should be.
        """
        at = f"nodes[{quoted(str(key))}].wait"
        made = signal(
            key if name is None else name, at, schema=schema, transient=transient, within=within, default=default
        )
        return self._add_wait(key, made, None, after, trigger_rule, when, labels)

    def approval(  # noqa: PLR0913 - a question has that many properties, all of them optional and by keyword
        self,
        key: str,
        question: str,
        /,
        *,
        choices: Sequence[str] = DEFAULT_CHOICES,
        form: Mapping[str, Any] | None = None,
        who: Sequence[str] = ANYBODY,
        within: Duration | None = None,
        default: str | None = None,
        escalate: Sequence[tuple[Duration, Sequence[str]]] = (),
        shown: Mapping[str, Any] | None = None,
        after: After = (),
        trigger_rule: str = DEFAULT_RULE,
        when: Condition | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Node[dict[str, Any]]:
        """Adds a node that waits for a person: `run.answer(node, choice)` or `celeriac approvals approve`.

        Its output is {"choice", "by", "comment", "answer", "at_ms"}; `by` is "" when the default stands for an answer.

        Args:
            question: what is asked.
            choices: what may be answered.
            form: JSON Schema of what is said besides the choice.
            who: names of those who may answer; ["*"] is anybody.
            within: how long to wait; then `default` is the choice, or the node fails.
            default: the choice when nobody has answered in time.
            escalate: who else may answer, and after how long: [("4h", ["boss"])].
            shown: what whoever answers is to see: values, and handles of nodes.

        Raises:
            GraphError: something of it is not as it should be.
        """
        made = approval(
            question,
            f"nodes[{quoted(str(key))}].wait",
            choices=choices if isinstance(choices, str) else list(choices),
            form=form,
            who=who if isinstance(who, str) else list(who),
            within=within,
            default=default,
            escalate=escalate,
        )
        return self._add_wait(key, made, shown, after, trigger_rule, when, labels)

    def race(
        self,
        key: str,
        members: Sequence[Node[Any] | str],
        /,
        *,
        keep: int = 1,
        labels: Mapping[str, str] | None = None,
    ) -> Node[dict[str, list[str]]]:
        """Adds a node that keeps the first of some nodes to succeed, and cancels those of them that have not ended.

            paid, late = g.signal("paid"), g.timer("late", "3d")
            first = g.race("first", [paid, late])
            g.add("shop.ship", after=first, when=within("paid", first.out.winners))

        Its output is {"winners": [keys]}. When too few can still succeed it ends as the rule quorum(keep) says.

        Args:
            members: handles or keys; branches of work, or waits.
            keep: how many of them win.

        Raises:
            GraphError: no member, one twice, a handle of another graph, or more to keep than there are.
        """
        graph: Graph = self  # type: ignore[assignment]  # a part of that class
        key = graph._new_key(key)
        at = f"nodes[{quoted(key)}]"
        keys = [one if isinstance(one, str) else graph._own(one, f"{at}.race[{i}]") for i, one in enumerate(members)]
        made = race_of(keys, keep, at)
        policy = choice_policy(f"quorum({made.keep})")
        graph._specs[key] = Spec(
            key,
            graph._policies.setdefault(policy, policy),
            NO_INPUTS,
            made.members,
            None if labels is None else labels_of(labels, f"{at}.labels"),
            Branching(None, (), None, None, made),
        )
        graph._hash = None
        return Node(graph, key)

    def _add_wait(
        self,
        key: object,
        wait: Wait,
        shown: Mapping[str, Any] | None,
        after: Any,
        trigger_rule: str,
        when: Any,
        labels: Mapping[str, str] | None,
    ) -> Node[Any]:
        graph: Graph = self  # type: ignore[assignment]  # a part of that class
        key = graph._new_key(key)
        at = f"nodes[{quoted(key)}]"
        inputs = NO_INPUTS if not shown else Walk(key, graph).inputs((), kwargs_of(shown, f"{at}.inputs"))
        keys, gates = graph._after(after, key)
        guard = None if when is None else formula_of(when, f"{at}.when", graph).expression
        policy = choice_policy(rule_of(trigger_rule, f"{at}.trigger_rule"))
        graph._specs[key] = Spec(
            key,
            graph._policies.setdefault(policy, policy),
            inputs,
            keys,
            None if labels is None else labels_of(labels, f"{at}.labels"),
            branching(guard, gates, None, wait),
        )
        graph._hash = None
        return Node(graph, key)
