"""The tracking server: where it is, and what happens when it is away."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from mlflow import MlflowClient


def connect() -> MlflowClient:
    """A client of MLFLOW_TRACKING_URI, or of the embedded default: `mlflow.db` and `mlruns/` in the current folder."""
    uri = os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{Path('mlflow.db').resolve()}")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # The defaults retry for minutes; training must not wait for a server that is down
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    import mlflow

    mlflow.set_tracking_uri(uri)
    if not uri.startswith("sqlite:///"):
        return mlflow.MlflowClient(uri)
    # The client opens the store, and several that open a fresh one at once crash in its migrations: one at a time
    with FileLock(uri.removeprefix("sqlite:///") + ".lock"):
        return mlflow.MlflowClient(uri)


def experiment_id(client: MlflowClient, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        local = client.tracking_uri.startswith("sqlite:///")
        try:
            return str(client.create_experiment(name, Path("mlruns").resolve().as_uri() if local else None))
        except MlflowException:  # another process was quicker
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise ValueError(f"the MLflow experiment {name!r} is deleted: restore it, or set another `experiment`")
    return str(found.experiment_id)


class _Attempt:
    failed = False


@contextmanager
def forgiving(what: str) -> Iterator[_Attempt]:
    """Tracking never kills training: a failure to send is said once, in a sentence, and `sync` sends it later."""
    attempt = _Attempt()
    try:
        with explained():
            yield attempt
    except ValueError as error:
        attempt.failed = True
        print(f"warning: {what} not sent: {error}; `python -m pipeline track` sends it later", file=sys.stderr)


@contextmanager
def explained() -> Iterator[None]:
    """What goes wrong between us and MLflow becomes a ValueError with one sentence."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        raise ValueError(f"MLflow at {uri} failed: {reason}") from error
