"""Image files to probabilities and decisions, by checkpoints."""
