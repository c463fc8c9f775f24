"""The tracking server: where it is, and what happens when it is away."""

import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException, SSLError
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from pipeline import layout
from pipeline.artifacts import write_whole
from pipeline.errors import UserError, masked
from pipeline.proxies import bypass_proxy

ANSWER_SECONDS = 5.0  # within which a server must answer
AWAY_SECONDS = 120.0  # for which no stage asks a server that gave no answer
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "AWS_MAX_ATTEMPTS": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}  # fmt: skip
LOGIN = "set MLFLOW_TRACKING_URI=https://NAME:PASSWORD@HOST (`@`, `/`, `:` and `%` in a password as %40, %2F, ...)"
AWAY = layout.resume("mlflow", "away")  # which server that is; its time says since when
# What may go wrong on the way to MLflow. Artifacts may go straight to a store, whose client MLflow imports where it is
# needed, and which has errors of its own
AWRY = (MlflowException, RequestException, SQLAlchemyError, sqlite3.Error, OSError, ImportError)
STORES = {"boto3", "botocore", "s3transfer", "urllib3", "azure", "google", "paramiko"}
# Where MLflow's database names folders, all by their absolute paths
PLACES = (
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip


@contextmanager
def explained() -> Iterator[None]:
    """What goes wrong between us and MLflow becomes a UserError; trouble with our own files stays as it is."""
    try:
        yield
    except Exception as error:
        of_store = STORES & {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
        if not (isinstance(error, AWRY) or of_store) or (isinstance(error, OSError) and error.filename):
            raise
        reason = " ".join(masked(str(error)).split())[:200]
        if isinstance(error, MlflowException) and error.get_http_status_code() == HTTPStatus.UNAUTHORIZED:
            reason = f"the login is wrong or has expired: {LOGIN}"
        raise UserError(f"MLflow at {masked(_address())} failed: {reason}") from error


def attempt(what: str, send: Callable[[], object]) -> bool:
    """Tracking never kills training: a failure to send is a warning, and `sync` sends it later. Whether it was sent.
    One that took long is as good as no answer: the next stages do not wait again."""
    started = time.monotonic()
    try:
        with explained():
            _expect_server()
            send()
    except (ValueError, OSError) as error:
        if isinstance(error, UserError) and time.monotonic() - started > ANSWER_SECONDS:
            _note_away()
        print(f"warning: {what} not sent: {error}; `python -m pipeline track` sends it later", file=sys.stderr)
        return False
    return True


@explained()
def connect() -> MlflowClient:
    """A client of MLFLOW_TRACKING_URI, or of `mlflow.db` and `mlruns/` in the current folder. Raises UserError if a
    server does not answer within some seconds."""
    uri = _address()
    _expect_answer(uri)
    mlflow.set_tracking_uri(uri)
    file = make_url(uri).database if uri.startswith("sqlite:") else None
    if not file:
        return MlflowClient(uri)
    # The client opens the store, and several that open a fresh one at once crash in its migrations: one at a time
    with FileLock(f"{file}.lock"):
        return _opened(Path(file), uri)


def _address() -> str:
    """Where MLflow is, with the environment set for MLflow to find it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _embedded(Path("mlflow.db").resolve())
    parts = urlsplit(uri)
    # MLflow prints the address in errors and logs; it takes name and password from variables as well, but not one alone
    if parts.scheme in ("http", "https") and parts.username and parts.password:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
        uri = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    os.environ["MLFLOW_TRACKING_URI"] = uri
    # The defaults retry for minutes, or as long as the server says; training must not wait for one that is down
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    bypass_proxy()
    return uri


def _embedded(file: Path) -> str:
    """Raises UserError for a path that SQLite's addresses cannot hold: the store would come to lie elsewhere."""
    uri = f"sqlite:///{file}"
    if make_url(uri).database != str(file) or re.search(r"[\ud800-\udfff]", str(file)):
        what, fix = f"`?`, `%` or bytes that are no text in its path ({str(file)!r:.200})", "rename the folder"
        raise UserError(f"MLflow cannot take a folder with {what}: {fix}, or set MLFLOW_TRACKING_URI to a server")
    return uri


def _expect_server() -> None:
    """Raises OSError if the server gives no answer, or gave none a short while ago: each stage is a process of its own,
    and only the first one should wait."""
    uri = _address()
    was_away = AWAY.exists() and AWAY.read_text(encoding="utf-8") == masked(uri)
    if was_away and (seconds := time.time() - AWAY.stat().st_mtime) < AWAY_SECONDS:
        raise ConnectionError(f"it gave no answer {seconds:.0f} s ago")
    try:
        _expect_answer(uri)
    except OSError:
        _note_away()
        raise


def _note_away() -> None:
    with suppress(OSError):  # a full disk is no reason to stop a training either
        write_whole(AWAY, masked(_address()).encode())


def _expect_answer(uri: str) -> None:
    """Raises OSError if it is a server that gives no answer in time, whichever."""
    # Whether to trust its certificate is for MLflow, which has variables for that
    with suppress(SSLError):
        if uri.startswith(("http://", "https://")):
            requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS)


def _opened(path: Path, uri: str) -> MlflowClient:
    """A client of the store in a file. A new one is made beside, so that a kill leaves none or a whole one."""
    if not path.exists() or not path.stat().st_size:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # takes 0.6 s, which a server does not need

        new = path.with_name(f"{path.name}.new")
        for left in (new, path.with_name(f"{new.name}-journal")):
            left.unlink(missing_ok=True)
        SqlAlchemyStore(f"sqlite:///{new}", "mlruns").engine.dispose()
        new.replace(path)  # SQLite has synced it
    try:
        client = MlflowClient(uri)
        if path.resolve().parent == Path.cwd():  # a store elsewhere may serve several projects
            _bring_here(path)
        return client
    except SQLAlchemyError as error:
        reason = " ".join(str(error).split())[:120]
        fix = "move it away, and `python -m pipeline track` writes the present results to a new one"
        raise UserError(f"{path} cannot be opened ({reason}): {fix}") from error


def _bring_here(path: Path) -> None:
    """In a project that was moved or copied, the database names the folder mlruns/ of the old place: whatever is sent
    would be written there, and a moved model is not found. Other places than such a folder stay as they are."""
    here = f"{Path.cwd()}/mlruns/"
    ours = "substr({1}, 1, ?) = ?"
    find = " union ".join(f"select {{1}} from {{0}} where not {ours}".format(*place) for place in PLACES)
    with closing(sqlite3.connect(path, timeout=60)) as database:
        others = {str(row[0]) for row in database.execute(find, [len(here), here] * len(PLACES))}
        found = {match[1] for place in others if (match := re.fullmatch(r"((?:file://)?/.*/mlruns/)\d+(/.*)?", place))}
        with database:
            for old in found:
                for table, column in PLACES:
                    change = f"update {table} set {column} = ? || substr({column}, ?) where "
                    database.execute(change + ours.format(table, column), [here, len(old) + 1, len(old), old])
    for old in sorted(found):
        said = f"this project was moved or copied: MLflow's files are now in {here}, no longer in {old}"
        print(said, file=sys.stderr)
