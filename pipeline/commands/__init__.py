"""The shell around the stages: read files, call a pure function, write files, tell MLflow, print a line.

Paths come from `dvc.yaml`. Heavy imports stand inside the commands, so that `--help` and the light ones start fast.
"""
