"""The Philox stream numbers of the data package, in one place so that no two draws share one.

Streams 0 to 999 belong to the nodes of a graph.
"""

SHUFFLE = 1000
AUGMENT = 1001
SUBSET = 1002
