"""Checkpoint files of every format and the wrappers in them; reading runs no code from a file."""
