"""Fine-tuning by another tool, in that tool's own environment: `back_ends` says which, `protocol` how."""
