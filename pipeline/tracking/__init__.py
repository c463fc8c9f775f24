"""The only package that speaks to MLflow's tracking server (registry.py: to its registry).

One run per trained model, found by a tag with the SHA-256 of its checkpoint. Whatever is sent twice is there once, and
what a stage could not send, the next call of `sync` sends.
"""
