"""Hugging Face tokenizers, and text encoded to the ids of a checkpoint."""
