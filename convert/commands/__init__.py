"""One file per command of `jaxgpt-convert`: its arguments in, its page out."""
