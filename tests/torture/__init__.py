"""Stress tests: damaged files, killed commands, failing disks, odd numbers, hidden pickles."""
