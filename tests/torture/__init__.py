"""Damages every kind of file that the project reads, and requires an answer for each."""
