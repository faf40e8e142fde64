"""The reference application: executors that the shipped workers run. They act, and know nothing of graphs.

An executor uses the public names of `scheduler.worker` and nothing else of celeriac. A new one is a function with
`@executor` in a file here; tasks/app.py finds it by itself.
"""
