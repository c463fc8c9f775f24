"""Networks: their architectures, their weights on disk, and what is shipped of them."""
