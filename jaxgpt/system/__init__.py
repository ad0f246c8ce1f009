"""What the operating system is asked for: atomic files, signals, a worker thread."""
