"""lm-eval tasks that need no network: a YAML each, the functions it names, and a note of origin and license."""
