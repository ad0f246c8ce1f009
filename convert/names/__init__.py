"""The words that people use: for parts of a model, for settings, for other architectures."""
