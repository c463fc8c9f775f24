"""What a training's numbers and units say of how it went, and what to do."""
