"""Callbacks: what a run leaves behind, and how it ends."""
