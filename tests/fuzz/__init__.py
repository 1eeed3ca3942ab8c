"""Fuzzing of the ops; ``python -m tests.fuzz --help``, and docs/reliability.md."""
