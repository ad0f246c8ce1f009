"""The commands of `jaxgpt-convert`, one per file, and the pages that they print."""
