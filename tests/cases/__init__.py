"""The calls that every backend is tried with: a listed set and a seeded fuzzer for each family.

`listed(dtypes)` names the shapes that break kernels: primes, one pixel, one row, filters larger
than a tile, channels that no vector width divides. `fuzz(chunk, dtypes, every)` draws CHUNK cases,
or one in `every`; case i depends on nothing but i (and on which types the backend computes), so a
label such as "conv:137" is enough to see it again: `next(cases.conv.case(137, dtypes))`.
"""
