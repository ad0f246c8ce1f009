"""Checkpoint files of every format and the wrappers in them, read without running anything."""
