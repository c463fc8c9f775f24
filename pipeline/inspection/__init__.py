"""What is known about the data before anything is trained on them."""
