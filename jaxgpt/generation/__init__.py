"""Text from a model, what it looks at, and its programs exported."""
