"""The pages that the commands print."""
