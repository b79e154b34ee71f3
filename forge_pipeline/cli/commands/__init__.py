"""One module a command: `add_arguments(parser)` and `run(args) -> exit code`. Nothing heavy at the top."""
