"""The engine: graphs of kernel calls, the passes that compile them, data, and training.

Read `compile.py` first. The engine knows graphs; it has never heard of a command line.
"""
