"""What a file holds besides the weights, in and out: torch's AdamW, counters, settings."""
