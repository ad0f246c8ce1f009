"""The commands of `jaxgpt`: their options, what they print, and their exit codes."""
