"""Services of the operating system: atomic files, locks, signals, a worker thread."""
