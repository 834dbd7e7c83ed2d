"""The passes: each turns a graph into a graph; `compile.py` lists them in order."""
