"""Text sources, tokenizers, and token files to train on."""
