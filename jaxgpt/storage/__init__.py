"""Model directories, run directories, and the plots in them; `jaxgpt.file_names` has the names."""
