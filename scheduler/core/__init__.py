"""Pure: what a run is, what may happen to it, and what follows. No clock, no I/O, no logging.

Imports the standard library and scheduler.errors only; a test keeps it so.
"""
