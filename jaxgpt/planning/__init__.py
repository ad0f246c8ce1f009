"""Estimates of memory, traffic and time for a run on devices that need not be present."""
