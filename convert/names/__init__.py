"""Vocabularies: names for the parts of a model, for settings, and for other architectures."""
