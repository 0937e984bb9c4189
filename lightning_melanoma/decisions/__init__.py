"""From logits to decisions: numpy only."""
