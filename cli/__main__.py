"""`python -m cnnengine.cli` is the `cnnengine` command."""

from .main import main

main()
