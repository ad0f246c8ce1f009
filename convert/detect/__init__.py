"""Detection of the dialect and the ModelConfig of a checkpoint from its tensors and configs."""
