"""Detection of a checkpoint's dialect and ModelConfig, and the warnings about what is assumed."""
