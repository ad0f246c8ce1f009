"""The comparison of both models in float64, and its verdict."""
