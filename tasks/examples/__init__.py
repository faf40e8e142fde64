"""Worked examples: graphs of the executors in tasks/, with the data they run on."""
