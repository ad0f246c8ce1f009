"""Finds the fields of a ModelConfig by running the torch class of a file."""
