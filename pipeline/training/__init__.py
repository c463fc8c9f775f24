"""Training: the loop and the step, and all that they are made of. Knows no stage."""
