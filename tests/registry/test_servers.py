"""The registry on real servers: PostgreSQL, an S3-compatible store, a login; a second machine; and `mlflow gc`."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.__main__ import main
from pipeline.artifacts import Dataset, ModelCard, sha256
from pipeline.config import Params, load
from pipeline.errors import UserError
from pipeline.registry import history, promotion, versions, views
from pipeline.tracking.server import connect
from pipeline.tracking.sync import sync
from tests.conftest import PROJECT, new_project, write_digits
from tests.project import Project, clone
from tests.races import at_once, killed, more_versions, sound
from tests.registry.conftest import make
from tests.results import MODEL
from tests.servers import KEYS, NAME, PASSWORD, mlflow_server, postgres, postgres_tools, s3

TOOLS = postgres_tools()
pytestmark = pytest.mark.long
Made = Callable[..., str]
Server = tuple[str, str, str]  # address with login, database, S3 server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server passes artifacts on to S3: clients know neither keys nor bucket."""
    if TOOLS is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder, to_s3 = tmp_path_factory.mktemp("server"), ("--artifacts-destination", "s3://bucket/proxied")
    with postgres(TOOLS) as database, s3() as store, mlflow_server(folder, database, store, *to_s3) as address:
        yield login(address), database, store


def login(address: str, password: str = PASSWORD) -> str:
    return address.replace("://", f"://{NAME}:{quote(password, safe='')}@")


@pytest.fixture
def named(tmp_path: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Params:
    """A project whose model and experiment have the test's name: the server is the same for all."""
    new_project(tmp_path, fresh_store, monkeypatch)
    text = (PROJECT / "params.yaml").read_text().replace('"digits"', f'"{request.node.name}"')
    Path("params.yaml").write_text(text.replace("max_calibration_error: 0.2", "max_calibration_error: 1.0"))
    for key in ("USERNAME", "PASSWORD"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{key}", "")  # taken back afterwards: `connect` sets them
    return load()


@pytest.fixture
def new(named: Params, card: ModelCard, dataset: Dataset) -> Made:
    """Registers the network of a seed, trained for some steps; its version."""
    return partial(make, named, card, dataset)


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str) -> tuple[object, str]:
    """Exit code and output of the command line."""
    monkeypatch.setattr(sys, "argv", ["pipeline", *words.split()])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().out


def test_the_whole_life_of_a_model(
    server: Server, named: Params, new: Made, card: ModelCard, dataset: Dataset, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Nothing but MLFLOW_TRACKING_URI is set, with name and password in it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[0])
    promote = partial(promotion.promote, named, dataset, card.preprocessing)
    client, name = connect(), named.registry.name

    def champion(folder: str) -> str:
        return sha256(versions.fetch(client, name, "champion", tmp_path / folder).file)

    assert new(0) == "1" and promote().outcome == "promoted"
    first = champion("first")
    assert new(1, steps=60) == "2" and promote().outcome == "promoted" and champion("second") != first
    assert new(2) == "3" and promote().outcome == "refused"
    assert promotion.rollback(named, "it is too good").champion == "1"
    assert champion("again") == first
    code, out = said(monkeypatch, capsys, f"predict {write_digits(tmp_path / 'scans', 1, 1) / 'digit-0' / '000.png'}")
    assert not code and "digit-" in out
    assert said(monkeypatch, capsys, "registry verify")[0] in (0, None)
    entries = views.entries(name)
    assert [(row["verb"], row["to"]) for row in entries] == [
        ("promote", "1"), ("promote", "2"), ("refuse", "2"), ("rollback", "1"),
    ]  # fmt: skip
    assert [views.entries(name, row["time"])[0]["to"] for row in entries] == ["1", "2", "2", "1"]
    assert client.get_run(sync(client, named, MODEL)).info.artifact_uri.startswith("mlflow-artifacts:")
    text = client.get_model_version(f"{name}.history", "2").tags[history.TEXT].replace('"to": "2"', '"to": "3"')
    MlflowClient().set_model_version_tag(f"{name}.history", "2", history.TEXT, text)
    code, out = said(monkeypatch, capsys, "registry verify")
    assert code == 1 and "entry 2" in out


def test_artifacts_go_straight_to_s3(
    server: Server, named: Params, new: Made, card: ModelCard, dataset: Dataset, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The client has the keys; without them it says so."""
    _, database, store = server
    for key, value in (KEYS | {"MLFLOW_S3_ENDPOINT_URL": store}).items():
        monkeypatch.setenv(key, value)
    straight = ("--no-serve-artifacts", "--default-artifact-root", "s3://bucket/straight")
    with mlflow_server(tmp_path, database, store, *straight) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", login(address))
        assert new(0) == "1"
        assert promotion.promote(named, dataset, card.preprocessing).champion == "1"
        assert connect().get_run(sync(connect(), named, MODEL)).info.artifact_uri.startswith("s3://bucket/straight")
        assert versions.load(named.registry.name, "champion").card == card
        env = {key: value for key, value in os.environ.items() if key not in KEYS}
        env |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)}
        command = [sys.executable, "-m", "pipeline", "predict", "x.png"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "credentials" in done.stderr and "Traceback" not in done.stderr


def test_promotions_at_once_and_kills(
    server: Server, named: Params, new: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As real processes; the long version is benchmarks/registry_races.py."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[0])
    name = named.registry.name
    wanted = [new(0), *more_versions(name, 5)]
    assert at_once(wanted[:1])[0] == {"promoted": 1}
    outcomes, seconds = at_once(wanted[1:])
    seen = sound(name)
    assert outcomes == {"promoted": 5} and sorted(str(entry.champion) for entry in seen.entries) == wanted
    for other in [version for version in wanted if version != seen.champion][:3]:
        old = sound(name).champion
        died = killed(other, seconds)
        assert sound(name).champion in ((old, other) if died else (other,))
    assert views.verify(name)[0] == []


def test_a_wrong_password_is_said_with_the_way_out(
    server: Server, named: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[0].replace(quote(PASSWORD, safe=""), "expired"))
    with pytest.raises(UserError, match=r"login .*NAME:PASSWORD@HOST") as caught:
        versions.load(named.registry.name, "champion")
    assert "expired@" not in str(caught.value)


def test_a_second_machine_with_the_same_server(server: Server, tmp_path: Path) -> None:
    """A clone and `dvc pull`: each goes on from what the other has done."""
    first = clone(tmp_path / "first")
    write_digits(first.root / "data" / "raw", 3, 40)
    for old, new in {
        "source: digits": "source: image_folder", 'root: "data/downloads"': 'root: "data/raw"',
        "  modern_cnn:\n    architecture: modern_cnn\n    learning_rate: 0.05\n": "", "epochs: 10": "epochs: 1",
        "  simple_resnet:\n    architecture: simple_resnet\n    learning_rate: 0.05\n": "", "epochs: 3": "epochs: 1",
        'name: "digits"': 'name: "two"', "min_accuracy: 0.9": "min_accuracy: 0.0",
        "rounds: 30": "rounds: 3",
        "max_calibration_error: 0.2": "max_calibration_error: 1.0",
    }.items():  # fmt: skip
        first.change(old, new)
    second = Project(tmp_path / "second")
    for project in (first, second):
        project.env |= {"MLFLOW_TRACKING_URI": server[0], "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    for command in (
        "git init -q -b main", f"dvc remote add -d storage {tmp_path / 'storage'}", "git add -A", "dvc add data/raw",
        "git commit -qm start", "dvc repro", "git add -A", "git commit -qm results", "dvc push",
        f"git clone -q . {second.root}",
    ):  # fmt: skip
        first.run(command)
    pipeline, image = f"{sys.executable} -m pipeline", "data/raw/digit-0/000.png"

    def same(words: str) -> str:
        """What both machines say."""
        said = [project.run(f"{pipeline} {words}") for project in (first, second)]
        assert said[0] == said[1]
        return said[0]

    assert "version 1" in first.run(f"{pipeline} register") and "promoted" in first.run(f"{pipeline} promote")
    second.run("dvc pull")
    assert "digit-" in same(f"predict {image}")
    assert "is up to date" in same("track")
    assert "version 1" in same("register") and "unchanged" in same("promote")
    second.change("learning_rate: 0.05", "learning_rate: 0.04")
    second.run("dvc repro benchmark")
    assert "version 2" in second.run(f"{pipeline} register")
    second.run([*pipeline.split(), "registry", "promote", "--force", "--reason", "tried by hand"])
    assert "version 2" in first.run(f"{pipeline} promote 2") and "digit-" in same(f"predict {image}")
    assert "version 1" in first.run(f"{pipeline} registry rollback --reason worse")
    assert "rollback" in same("registry history") and "error" not in same("registry verify")


def test_the_gate_needs_no_run_of_the_champion(named: Params, new: Made, card: ModelCard, dataset: Dataset) -> None:
    """Deleted, and then for good, as `mlflow gc` does."""
    client = connect()
    new(0)
    promotion.promote(named, dataset, card.preprocessing)
    run = str(client.get_model_version(named.registry.name, "1").run_id)
    client.delete_run(run)
    store = str(os.environ["MLFLOW_TRACKING_URI"])
    subprocess.run([sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", store], check=True)
    with pytest.raises(MlflowException):
        client.get_run(run)
    new(1, steps=60)
    assert promotion.promote(named, dataset, card.preprocessing).champion == "2"
    assert views.verify(named.registry.name)[0] == []
