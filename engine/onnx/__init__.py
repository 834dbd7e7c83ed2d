"""ONNX files: networks come in and go out.

`reader` takes a file apart and refuses what does not hold together; `importer` walks its operations
and writes them with GraphBuilder, by the translations in `ops_*.py` over the `tensor`s that know in
which order they lie; `network` makes an architecture of it, `backend` runs it as it is. `exporter`
is the way back.
"""
