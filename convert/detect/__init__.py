"""From the tensors of a file to a dialect and a ModelConfig."""
