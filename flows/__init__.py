"""Prefect flows: read the stage graph from DVC and run its stages as tasks."""
