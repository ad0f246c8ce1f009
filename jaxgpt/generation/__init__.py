"""Generated text, a view of attention and probabilities, and exported programs."""
