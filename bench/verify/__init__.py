"""Every kernel on fresh random inputs beside float64: judge one call, or all of a suite.

`tolerance.py` is the table of what is allowed, `judge.py` judges one call of one backend in the
memory of `guarded.py`, `reference.py` has its right answer, from the plain loops of `oracle/` where
the call is small. `shapes.py` and `calls.py` make the calls, `suite.py` runs them and counts.
"""
