"""One file a stage: from typed inputs to typed outputs, without MLflow, Prefect, DVC or a path of their own."""
