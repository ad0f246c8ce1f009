"""Reads and writes what a file holds besides the weights: torch's AdamW, counters, settings."""
