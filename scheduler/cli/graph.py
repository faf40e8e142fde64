"""`celeriac graph ...`: check a graph, draw it, print the schema of graph documents. Nothing needs to run."""

from __future__ import annotations

from typing import Any

import click

from .output import Output, json_text, output_option
from .place import Place, place_options, runs_of
from .sources import graph_of, inputs_of

_input_option = click.option(
    "--input", "-i", "inputs", multiple=True, metavar="NAME=VALUE", help="Argument of the function that GRAPH names."
)


_MOST_BARE = 20
"""Nodes without a path for failure that are named; `-o json` names all."""


@click.group("graph")
def graph_command() -> None:
    """Check and draw graphs."""


@graph_command.command("check")
@click.argument("graph")
@_input_option
@click.option("--published", is_flag=True, help="Also against the executors that workers have published.")
@place_options
@output_option
def check(graph: str, inputs: tuple[str, ...], published: bool, place: Place, out: Output) -> None:
    """Say what is wrong with GRAPH (exit status 6), or what it holds; where nothing is said of failure, and where
    carrying the work costs more than the work.
    """
    from .drawing import levels, shape_of
    from .failure_paths import DEFAULT, nodes_that_may_fail, without_path
    from .overhead import advice

    built = graph_of(graph, inputs_of(inputs))
    settings = place.settings()
    contracts, paces = None, dict[str, int]()
    if published:
        with place.for_reading() as located:
            runs = runs_of(located)
            contracts, paces = runs.contracts(), runs.paces()
    compiled = built.compile(contracts=contracts, classes=settings.classes)
    profiles, shape = compiled.header["profiles"], shape_of(compiled)
    bare = [compiled.keys[node] for node in without_path(shape)]
    found: dict[str, Any] = {
        "name": built.name,
        "hash": compiled.hash,
        "nodes": compiled.nodes,
        "edges": compiled.header["edges"],
        "levels": len(levels(shape)),
        "executors": sorted({it["executor"] for it in profiles} - {""}),
        "mappers": compiled.header.get("mappers", []),
        "returns": None if compiled.header["returns"] is None else compiled.keys[compiled.header["returns"]],
        "overhead": advice(shape, contracts or {}, paces, settings.classes, settings.default_class.name),
    }
    if out.json:
        default = DEFAULT if bare else None
        out.document({**found, "failure_paths": {"without": bare, "default": default}})
    else:
        if bare:
            shown = ", ".join(bare[:_MOST_BARE]) + (", ..." if len(bare) > _MOST_BARE else "")
            of = len(nodes_that_may_fail(shape))
            found["no failure path"] = f"{len(bare)} of {of} nodes, {DEFAULT}: {shown}"
        said = {name: it for name, it in found.items() if name not in ("mappers", "overhead") or it}
        out.facts([(name, ", ".join(it) if isinstance(it, list) else it) for name, it in said.items()])


@graph_command.command("draw")
@click.argument("graph", required=False)
@_input_option
@click.option("--run", metavar="RUN", help="Draw this run instead, with the state of each node.")
@click.option("--format", "form", type=click.Choice(["txt", "mermaid", "dot", "json", "yaml"]), default="txt")
@place_options
@output_option
def draw(graph: str | None, inputs: tuple[str, ...], run: str | None, form: str, place: Place, out: Output) -> None:
    """Draw GRAPH, or a run, as text, Mermaid or Graphviz; or print the graph's document."""
    from .drawing import dot, mermaid, shape_of, text

    if (graph is None) is (run is None):
        raise click.UsageError("name a GRAPH, or a run with --run.")
    if run is not None:
        _draw_run(run, form, place, out)
        return
    assert graph is not None  # noqa: S101  one of the two was given
    built = graph_of(graph, inputs_of(inputs))
    compiled = built.compile()
    if form == "json" or out.json:
        out.document(built.document()) if out.json else out.line(json_text(built.document(), indent=2))
        return
    drawn = {"txt": text, "mermaid": mermaid, "dot": dot}
    out.line(built.to_yaml().rstrip("\n") if form == "yaml" else drawn[form](shape_of(compiled)))


def _draw_run(run: str, form: str, place: Place, out: Output) -> None:
    """A run as it stands, from Redis or the archive."""
    from ..client.views import Workers, view_nodes
    from .drawing import dot, is_decision, mermaid, text
    from .place import runs_with
    from .runs import checked_id

    drawn = {"txt": text, "mermaid": mermaid, "dot": dot}
    if form not in drawn:
        raise click.UsageError(f"--format {form} is for graphs; `celeriac runs show RUN -o json` gives a run as JSON.")
    with place.for_reading() as settings:
        runs = runs_with(settings, checked_id(run))
        shape = runs.load(checked_id(run))
        views = list(view_nodes(shape, runs.claimed(shape), Workers.read(runs, settings)))
    if not out.json:
        out.line(drawn[form](shape, [it.state.word for it in views]))
        return
    nodes = [
        {
            "key": it.key,
            "work": it.executor,
            "decision": is_decision(shape, node),
            "state": it.state.word,
            "upstream": [shape.keys[up] for up in shape.upstream(node)],
            "closed": [shape.keys[up] for up in shape.upstream(node) if node in shape.closed.get(up, ())],
        }
        for node, it in enumerate(views)
    ]
    out.document({"run": run, "state": shape.run_state.value, "nodes": nodes})


@graph_command.command("schema")
@output_option
def schema(out: Output) -> None:
    """Print the JSON Schema of graph documents."""
    from ..graph.schema import graph_schema

    out.document(graph_schema()) if out.json else out.line(json_text(graph_schema(), indent=2))
