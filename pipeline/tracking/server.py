"""The tracking server: where it is, and what happens when it is away."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from pipeline.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ANSWER_SECONDS = 5.0  # within which a server must answer
AWAY_SECONDS = 120.0  # for which all stages believe that a server is away
AWAY = Path("resume", "mlflow-away")  # says which server, and by its time since when
LOCAL = "127.0.0.1,localhost,::1"


def connect() -> MlflowClient:
    """A client of MLFLOW_TRACKING_URI, or of the embedded default: `mlflow.db` and `mlruns/` in the current folder.

    Raises OSError if it is a server that does not answer within some seconds.
    """
    uri = _address()
    _ask(uri, float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]))
    import mlflow
    from sqlalchemy import make_url

    mlflow.set_tracking_uri(uri)
    file = make_url(uri).database if uri.startswith("sqlite:") else None
    if not file or file == ":memory:":
        return mlflow.MlflowClient(uri)
    # The client opens the store, and several that open a fresh one at once crash in its migrations: one at a time
    with FileLock(f"{file}.lock"):
        return _opened(Path(file), uri)


def expect_server() -> None:
    """For stages, each a process of its own: raises OSError if the server does not answer, or did not for one of them
    a short while ago."""
    uri = _address()
    with suppress(FileNotFoundError):
        if AWAY.read_text(encoding="utf-8") == uri and (seconds := time.time() - AWAY.stat().st_mtime) < AWAY_SECONDS:
            raise ConnectionError(f"it gave no answer {seconds:.0f} s ago")
    try:
        _ask(uri, ANSWER_SECONDS)
    except OSError:
        AWAY.parent.mkdir(exist_ok=True)
        AWAY.write_text(uri, encoding="utf-8")
        raise
    AWAY.unlink(missing_ok=True)


def _address() -> str:
    """Where MLflow is, with the environment set for MLflow to find it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"
    parts = urlsplit(uri)
    # MLflow prints the address in errors and logs; it takes name and password from variables as well, but not one alone
    if parts.scheme in ("http", "https") and parts.username and parts.password:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
        uri = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # The defaults retry for minutes; training must not wait for a server that is down
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    # Calls to this machine never go to a proxy
    past = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or LOCAL
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = past if past == "*" or LOCAL in past else f"{past},{LOCAL}"
    return uri


def _ask(uri: str, seconds: float) -> None:
    """Raise OSError if the server does not answer in time, whatever it answers."""
    import requests

    # Whether to trust its certificate is for MLflow, which has variables for that
    with suppress(requests.exceptions.SSLError):
        if uri.startswith(("http://", "https://")):
            requests.get(f"{uri.rstrip('/')}/health", timeout=seconds)


def _opened(path: Path, uri: str) -> MlflowClient:
    """A client of the store in a file. A new one is made beside, so that a kill leaves none or a whole one."""
    import mlflow
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import SQLAlchemyError

    if not path.exists() or not path.stat().st_size:
        new = path.with_name(f"{path.name}.new")
        for left in (new, path.with_name(f"{new.name}-journal")):
            left.unlink(missing_ok=True)
        SqlAlchemyStore(f"sqlite:///{new}", "mlruns").engine.dispose()
        new.replace(path)  # SQLite has synced it
    try:
        return mlflow.MlflowClient(uri)
    except SQLAlchemyError as error:
        raise UserError(
            f"{path} cannot be opened ({' '.join(str(error).split())[:120]}): if MLflow was killed while it made or "
            f"upgraded it, move it away, and `python -m pipeline track` writes the present results to a new one"
        ) from error


def masked(text: str) -> str:
    """The text without the names and passwords of its URLs."""
    return re.sub(r"(?<=://)[^\s/]+@", "***@", text)


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
        raise UserError(f"the MLflow experiment {name!r} is deleted: restore it, or set another `experiment`")
    return str(found.experiment_id)


class _Attempt:
    failed = False


@contextmanager
def forgiving(what: str) -> Iterator[_Attempt]:
    """Tracking never kills training: a failure to send is said in a sentence, and `sync` sends it later."""
    attempt = _Attempt()
    try:
        with explained():
            yield attempt
    except (ValueError, OSError) as error:
        attempt.failed = True
        print(f"warning: {what} not sent: {error}; `python -m pipeline track` sends it later", file=sys.stderr)


@contextmanager
def explained() -> Iterator[None]:
    """What goes wrong between us and MLflow becomes a ValueError with one sentence; trouble with our files stays."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError) as error:
        if isinstance(error, OSError) and error.filename:
            raise
        reason = " ".join(masked(str(error)).split())[:200]
        raise UserError(f"MLflow at {masked(_address())} failed: {reason}") from error
