"""Services of the operating system: atomic files, locks, signals, a thread, shown progress."""
