"""The command line: parses, calls the engine or the benchmarks, prints. One file a command."""
