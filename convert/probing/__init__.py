"""The combinations that a file leaves open, ranked by their loss on a text."""
