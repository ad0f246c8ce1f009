"""Tokenizers of Hugging Face, and text as a checkpoint's ids."""
