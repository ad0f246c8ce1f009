"""Combinations of the fields that a file leaves open, ranked by their loss on a text."""
