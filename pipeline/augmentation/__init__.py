"""Augmentation of whole batches: each sample has a draw of its own, on the device that trains."""
