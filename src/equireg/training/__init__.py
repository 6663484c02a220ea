"""Networks, their batches, and the training step in its several forms."""
