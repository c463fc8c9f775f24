"""What a server or an artifact store may do to a training: cost a warning."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3  # type: ignore[import-untyped]  # ships no types
import pytest
import requests
from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client
from moto.server import ThreadedMotoServer

from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.tracking.live import live_run
from pipeline.tracking.server import connect, explained
from pipeline.tracking.sync import sync, sync_or_warn
from tests.conftest import PROJECT
from tests.results import CHECKPOINT, EPOCHS, MODEL, leave_results

pytestmark = pytest.mark.usefixtures("results")
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
CLOSED = "http://127.0.0.1:9"  # nobody listens there


@pytest.fixture
def results(tracking_folder: Path, card: ModelCard, dataset: Dataset) -> None:
    leave_results(card, dataset)


@contextmanager
def server(status: int, healthy: bool = True) -> Iterator[str]:
    """A server that is well, and answers everything else with a status; 0: never."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            well = self.path == "/health"
            if not well and not status:
                over.wait(60)
                return
            self.send_response(200 if well else status)
            self.send_header("Retry-After", "3600")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        over.set()
        http.shutdown()


def whole_training(params: Params) -> float:
    """A training and the stages after it; the seconds that they took."""
    started = time.monotonic()
    with live_run(params, MODEL, "key") as training:
        for row in EPOCHS:
            training.epoch(row, {})
        training.finished(CHECKPOINT, {"device": "cpu"})
    for _ in range(5):
        sync_or_warn(params, MODEL)
    return time.monotonic() - started


@pytest.mark.parametrize(("status", "seconds"), [(500, 30), (503, 30), (401, 5), (403, 5), (0, 15)])
def test_a_server_that_is_well_and_yet_useless_costs_warnings(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, seconds: float
) -> None:
    """It fails, wants to be asked again in an hour, knows the token no more, or hangs in mid-request, for which all
    stages together wait once. A person gets an error."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr("pipeline.tracking.server.ANSWER_SECONDS", 1.5)
    with server(status) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert whole_training(params) < seconds
        said = capsys.readouterr().err
        assert said.count("not sent") >= 6 and (status or said.count("Max retries") == 1)
        with pytest.raises(UserError, match=address), explained():
            sync(connect(), params, MODEL)


@pytest.mark.parametrize("trouble", ["closed", "no bucket", "no credentials"])
def test_an_artifact_store_that_is_away_costs_warnings(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trouble: str
) -> None:
    """Artifacts go straight to S3, by boto3. When it is back, all of it is sent, to the one run."""
    monkeypatch.setattr("pipeline.tracking.server.AWAY_SECONDS", 0.0)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # which knows the credentials of the test before
    _cached_get_s3_client.cache_clear()
    shutil.copy(PROJECT / "params.yaml", ".")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", *KEYS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = connect()
    client.create_experiment(params.experiment, "s3://bucket/runs")
    moto = ThreadedMotoServer("127.0.0.1", 0)
    moto.start()
    store = "http://{}:{}".format(*moto.get_host_and_port())
    requests.post(f"{store}/moto-api/reset", timeout=10)
    if trouble != "no credentials":
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", CLOSED if trouble == "closed" else store)
    whole_training(params)
    assert capsys.readouterr().err.count("not sent") >= 6
    with pytest.raises(UserError, match="failed"):
        sync(client, params, MODEL)

    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    _cached_get_s3_client.cache_clear()
    for name, value in {**KEYS, "MLFLOW_S3_ENDPOINT_URL": store}.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=store).create_bucket(Bucket="bucket")
    run_id = sync(client, params, MODEL)
    assert {"lineage/params.yaml", "export/fp32.onnx"} <= {
        item.path for folder in ("lineage", "export") for item in client.list_artifacts(run_id, folder)
    }
    moto.stop()
    experiment = client.get_experiment_by_name(params.experiment)
    assert experiment and len(client.search_runs([experiment.experiment_id])) == 1
