"""`python -m scheduler.cli`: the command `celeriac` where its script is not on PATH, and for the children of `up`."""

from __future__ import annotations

from . import main

main(prog_name="celeriac")
