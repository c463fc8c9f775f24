"""Labelled images in, a tested and registered CNN classifier out. `python -m pipeline --help` lists the verbs."""
