"""The fault suite: a whole installation as real processes, broken on purpose, judged from outside.

`make faults` runs every row of the table, `make soak` breaks everything for as long as you like. A row is a function
of `rows_*.py`; it gets a `Rig`, submits the base load, breaks something, and has the rig judge what came of it. The
judgement rests on a ledger that the tasks write outside the system (ledger.py), on the graphs, and on what the public
client says (checker.py).
"""
