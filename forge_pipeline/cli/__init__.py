"""The `forge` console script: thin commands over the library. Exit codes are in `exit_codes`."""
