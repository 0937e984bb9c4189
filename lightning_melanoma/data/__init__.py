"""Examples to batches: folds, decoding, order, draws, and the data module."""
