"""The commands, one module each; what a module of a command has is said in `benchmarks.__main__`."""
