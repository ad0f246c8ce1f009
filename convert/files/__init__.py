"""Checkpoint files of every format, read without running anything in them."""
