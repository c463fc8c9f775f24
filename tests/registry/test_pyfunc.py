"""The registered model through mlflow alone: what it takes, what it answers, and what it needs."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import requests
from PIL import Image

from pipeline import layout
from pipeline.artifacts import Dataset, ModelCard, sha256
from pipeline.config import Params
from pipeline.image_files import load, read
from pipeline.preprocessing import Preprocessing
from pipeline.registry import versions
from tests.results import MODEL, leave_results

Records = list[dict[str, Any]]
PREPROCESSING = Preprocessing(16, "crop", (255, 255, 255))
EMPTY: dict[str, Any] = {"class": "", "confidence": None, "probabilities": {}, "error": ""}


@pytest.fixture
def uri(tracking_folder: Path, params: Params, card: ModelCard, dataset: Dataset) -> str:
    """Of a registered model."""
    assert card.preprocessing == PREPROCESSING
    leave_results(card, dataset)
    versions.register(params)
    return f"models:/{params.registry.name}@challenger"


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """A JPEG, a PNG of 16 bits and a photo that its EXIF data turn round; not square."""
    values = np.random.default_rng(0).integers(0, 2**16, (2, 3, 3), np.uint16)
    scene = Image.fromarray((values >> 8).astype(np.uint8)).resize((120, 80))
    turned = Image.Exif()
    turned[0x0112] = 6
    scene.save(tmp_path / "a.jpg")
    Image.fromarray(values[..., 0].repeat(40, 0).repeat(40, 1)).save(tmp_path / "b.png")
    scene.save(tmp_path / "c.jpg", exif=turned)
    return [tmp_path / name for name in ("a.jpg", "b.png", "c.jpg")]


@pytest.fixture
def ours(uri: str, photos: list[Path]) -> pd.DataFrame:
    """Probabilities of the photos by our own predictor, with a column a class; no two rows are alike."""
    predictor = versions.load(uri[8:].partition("@")[0], "challenger")
    rows = predictor.probabilities(np.stack([load(path, predictor.card.preprocessing) for path in photos]))
    assert all(np.abs(rows[i] - rows[j]).max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))
    return pd.DataFrame(rows, columns=[*predictor.card.class_names])


def agree(records: Records, ours: pd.DataFrame) -> bool:
    table = pd.DataFrame([record["probabilities"] for record in records])[[*ours]]
    best = [(*table.loc[i, [name]], name, "") for i, name in enumerate(ours.idxmax(axis=1))]
    assert [(record["confidence"], record["class"], record["error"]) for record in records] == best
    return np.allclose(table, ours, atol=1e-6)


def as_base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_images_in_any_form_get_what_our_predictor_gives(uri: str, photos: list[Path], ours: pd.DataFrame) -> None:
    """Paths, bytes, base64 (in lines, as a data URL), arrays of any size; in a list, a DataFrame, an array, alone."""
    predict: Callable[[Any], Records] = mlflow.pyfunc.load_model(uri).predict
    content, text = [path.read_bytes() for path in photos], [str(path) for path in photos]
    coded = [as_base64(path) for path in photos]
    coded[1:] = [base64.encodebytes(content[1]).decode(), f"data:image/jpeg;base64,{coded[2]}"]
    large = [read(image, PREPROCESSING).pixels_HWC for image in content]
    small = np.stack([load(path, PREPROCESSING) for path in photos])
    forms = [photos, text, content, coded, [photos[0], coded[1], content[2]], large, [*small], small.tolist()]
    forms += [pd.DataFrame({"image": column}) for column in (text, content, coded, large)]
    forms += [pd.DataFrame({"number": [1, 2, 3], "image": text}), pd.DataFrame({"file": text, "number": [1, 2, 3]})]
    forms += [small, small.astype(int), np.array(coded), pd.Series(content), {"image": np.array(coded)}]
    for form in forms:
        assert agree(predict(form), ours), form
    for alone in (text[0], photos[0], content[0], coded[0], large[0]):
        assert agree(predict(alone), ours[:1])
    assert predict([]) == []


def test_an_image_that_cannot_be_read_costs_no_other(uri: str, photos: list[Path], ours: pd.DataFrame) -> None:
    """It has a reason and no class. What cannot be an image at all is refused as a whole."""
    predict: Callable[[Any], Records] = mlflow.pyfunc.load_model(uri).predict
    cases: dict[str, Any] = {"damaged": photos[0].read_bytes()[:-200], "empty": b"", "base64": "no such.jpg"}
    cases |= {"no image": None, "regular file": photos[0].parent, "not an image": as_base64(Path(__file__))}
    records = predict([photos[0], *cases.values(), photos[1]])
    assert agree([records[0], records[-1]], ours[:2])
    for reason, record in zip(cases, records[1:-1], strict=True):
        assert reason in record["error"] and record | {"error": ""} == EMPTY
    grey, floats = np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.float32)
    wrong: list[Any] = [0.5, [0.5], {}, pd.DataFrame(), pd.DataFrame({"a": [1]}), grey, floats]
    for data in [*wrong, np.full((8, 8, 3), 256), np.array([b"bytes"]), [[[1], [2, 3]]]]:
        with pytest.raises(ValueError, match=r"give bytes, paths, base64 or uint8 arrays"):
            predict(data)


def test_the_stored_onnx_file_is_ours_and_damage_is_said(uri: str) -> None:
    (stored,) = Path(mlflow.artifacts.download_artifacts(uri)).rglob("*.onnx*")
    assert sha256(stored) == sha256(layout.onnx("fp32", MODEL))
    assert sha256(stored.with_name("splits.parquet")) == sha256(layout.SPLITS)
    stored.write_bytes(stored.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"fp32\.onnx is damaged"):
        mlflow.pyfunc.load_model(uri)


@pytest.mark.slow
def test_mlflow_serves_it_without_this_project(
    uri: str, photos: list[Path], ours: pd.DataFrame, tmp_path: Path
) -> None:
    """A real server in an empty folder, which has loaded ONNX Runtime and no torch, and reads no file for a client."""
    (empty := tmp_path / "empty").mkdir()
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    there: dict[str, Any] = {"cwd": empty, "env": env}
    tried = subprocess.run([sys.executable, "-c", "import pipeline"], **there, capture_output=True, check=False)
    assert b"ModuleNotFoundError" in tried.stderr
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = f"{sys.executable} -m mlflow models serve -m {uri} --env-manager local --port {port}"
    server = subprocess.Popen(command.split(), **there, start_new_session=True)

    def post(**form: Any) -> Any:
        answer = requests.post(f"http://127.0.0.1:{port}/invocations", json=form, timeout=60)
        return answer.json()["predictions"]

    try:
        for _ in range(240):
            with suppress(requests.ConnectionError):
                requests.get(f"http://127.0.0.1:{port}/ping", timeout=60).raise_for_status()
                break
            assert server.poll() is None
            time.sleep(0.5)
        coded = [as_base64(path) for path in photos]
        columns = {"columns": ["image"], "data": [[text] for text in coded]}
        for form in ({"dataframe_split": columns}, {"inputs": coded}, {"instances": coded}):
            assert agree(post(**form), ours)
        assert agree(post(instances=[{"image": text} for text in coded]), ours)
        assert agree(post(inputs=load(photos[0], PREPROCESSING).tolist()), ours[:1])
        good, bad = post(inputs=[coded[0], str(photos[0])])
        assert agree([good], ours[:1]) and bad == EMPTY | {"error": "it is not base64"}
        running = psutil.Process(server.pid)
        maps = [file.path for one in (running, *running.children(recursive=True)) for file in one.memory_maps()]
        assert any("onnxruntime" in path for path in maps) and not any("libtorch" in path for path in maps)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
