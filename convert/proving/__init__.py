"""Both models run side by side in float64, and a verdict."""
