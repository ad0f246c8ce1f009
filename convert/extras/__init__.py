"""What lies beside the weights: torch's AdamW, counters, settings."""
