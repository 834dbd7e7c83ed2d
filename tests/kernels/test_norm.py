from __future__ import annotations

import pytest
from cases import norm as cases
from cases.draw import ALL, CHUNKS
from harness import compare_oracles


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("name", cases.LISTED)
def test_norm__listed_shapes(backend, name, dtype):
    if dtype not in backend.dtypes:
        pytest.skip(f"{backend.backend.name} does not compute {dtype}")
    for call in cases.listed(name, dtype):
        backend.verify(call)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_norm__fuzzed(backend, chunk):
    for call in cases.fuzz(chunk, backend.dtypes):
        backend.verify(call)


@pytest.mark.parametrize("name", cases.LISTED)
def test_norm_oracle__agrees_with_torch_on_listed_shapes(torch_oracle, name):
    compare_oracles(torch_oracle, cases.listed(name, "float64"))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_norm_oracle__agrees_with_torch(torch_oracle, chunk):
    compare_oracles(torch_oracle, cases.fuzz(chunk, ("float64",)))
