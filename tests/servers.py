"""An MLflow server as a team runs it: PostgreSQL behind it, artifacts in an S3-compatible store, a login."""

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3  # type: ignore[import-untyped]  # ships no types
import requests
from moto.server import ThreadedMotoServer

NAME, PASSWORD = "admin", "a pass/word:@%"  # what must be quoted in an address
BIN = Path("/usr/lib/postgresql")
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


def postgres_tools() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian keeps off PATH; None where PostgreSQL is not installed."""
    found = [Path(path).parent] if (path := shutil.which("initdb")) else sorted(BIN.glob("*/bin"))
    return found[-1] if found else None


@contextmanager
def postgres(tools: Path) -> Iterator[str]:
    """Its address. It listens on a socket in its own folder alone, and refuses to be root."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))  # pytest's are long for a socket, and closed
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)

    def run(*words: str) -> None:
        subprocess.run(words, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    data, options = str(folder / "data"), f"-c listen_addresses= -k {folder} -c fsync=off"
    try:
        run(str(tools / "initdb"), "-D", data, "-U", "mlflow", "-A", "trust")
        run(str(tools / "pg_ctl"), "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        yield f"postgresql+psycopg2://mlflow@/postgres?host={folder}"
    finally:
        run(str(tools / "pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@contextmanager
def s3() -> Iterator[str]:
    """The address of an S3 server with the bucket `bucket`."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it says each request
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket="bucket")
    yield address
    server.stop()


@contextmanager
def mlflow_server(folder: Path, database: str, store: str, *options: str) -> Iterator[str]:
    """Its address without a login. `options`: where artifacts go, in the S3 server `store`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "auth.ini"
    words = (
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder / 'auth.db'}\nadmin_username = {NAME}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\nauth_cache_ttl_seconds = 60\n"
    )
    config.write_text(words)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_"))} | KEYS
    env |= {
        "MLFLOW_AUTH_CONFIG_PATH": str(config), "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_S3_ENDPOINT_URL": store, "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "2"]
    command += ["--port", str(port), "--backend-store-uri", database, *options]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while not healthy(address):
            assert server.poll() is None and time.monotonic() < end, (folder / "server.log").read_text()[-3000:]
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def healthy(address: str) -> bool:
    try:
        return requests.get(f"{address}/health", timeout=5).ok
    except requests.ConnectionError:
        return False
