"""Text sources and their formats, tokenizers, and token files to train on."""
