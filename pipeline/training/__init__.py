"""The training engine: recipe, loop, batched augmentation, device and precision, checkpoints. Knows no stage."""
