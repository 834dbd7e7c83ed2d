"""Kernels: the written contract (`spec`), its backends, and the registry that loads them.

This package knows arrays. It has never heard of a graph, a network or a command line.
"""
