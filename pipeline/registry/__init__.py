"""MLflow's model registry: what may become a challenger, what becomes the champion, and the history of both."""
