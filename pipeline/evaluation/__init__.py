"""Metrics, statistics and pictures of a classifier's predictions. Imports no torch."""
