"""Services of the operating system: atomic files, locks, signals such as Ctrl-C, a thread, progress."""
