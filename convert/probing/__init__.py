"""Ranks the values of fields that a file leaves open by their loss on a text."""
