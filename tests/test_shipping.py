"""export, quantize, benchmark, evaluate on a really trained network."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from PIL import Image

from pipeline.artifacts import Dataset, ModelCard
from pipeline.cli.predict import predict
from pipeline.config import Benchmark, Evaluate, Export, Quantize
from pipeline.errors import UserError
from pipeline.inference.predictor import Predictor
from pipeline.networks.deployable import last_dense, probabilities
from pipeline.networks.weights import fresh
from pipeline.preprocessing import Preprocessing
from pipeline.stages.benchmark import benchmark
from pipeline.stages.evaluate import evaluate
from pipeline.stages.export import export
from pipeline.stages.quantize import quantize
from pipeline.stages.train import train
from tests.conftest import PROJECT
from tests.inputs import inputs_of, recipe

CPU = torch.device("cpu")
Shipped = tuple[torch.nn.Module, ModelCard, Path]


@pytest.fixture(scope="module", params=["simple_cnn", "modern_cnn", "simple_resnet"])
def shipped(request: pytest.FixtureRequest, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    folder = tmp_path_factory.mktemp("shipped")
    prepared = Preprocessing(16, "crop", (255, 255, 255))
    card = ModelCard(request.param, dataset.class_names, prepared, (0.3, 0.3, 0.3), (0.3, 0.3, 0.3))
    network = train(card, inputs_of(dataset), recipe(epochs=5)).fitted.network
    metrics = export(network, card, *dataset.of("val"), Export(), folder / "fp32.onnx")
    assert metrics["agreement"] == 1
    quantize(folder / "fp32.onnx", folder / "int8.onnx", dataset, Quantize())
    return network, card, folder


@pytest.mark.parametrize(("bias", "tolerance"), [(torch.nan, 1e-4), (0.0, 1e-30)])
def test_an_export_that_differs_from_torch_fails(
    card: ModelCard, dataset: Dataset, tmp_path: Path, bias: float, tolerance: float
) -> None:
    """A network that gives NaN agrees with nothing, not even with itself."""
    network = fresh(card).eval()
    torch.nn.init.constant_(last_dense(network).bias, bias)
    with pytest.raises(UserError, match=r"export\.tolerance"):
        export(network, card, *dataset.of("val"), Export(tolerance=tolerance), tmp_path / "fp32.onnx")


def test_predict_scales_as_ingest_did_and_never_waits(
    card: ModelCard, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What is white travels in the file of the model; a FIFO and a device are a sentence each, and exit code 1."""
    of_12_bits = replace(card, preprocessing=replace(card.preprocessing, white={"uint16": 4095}))
    export(fresh(card).eval(), of_12_bits, *dataset.of("val"), Export(), tmp_path / "fp32.onnx")
    monkeypatch.setattr("pipeline.registry.versions.load", lambda *_: Predictor(tmp_path / "fp32.onnx"))
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "8.png")
    Image.fromarray((grey * (4095 / 255)).round().astype(np.uint16)).save(tmp_path / "12.png")
    os.mkfifo(tmp_path / "fifo.png")
    with pytest.raises(typer.Exit):
        predict([tmp_path / name for name in ("8.png", "12.png", "fifo.png", "/dev/zero")], as_json=True)
    said = capsys.readouterr()
    eight, twelve = json.loads(said.out)
    assert eight["top5"] == twelve["top5"]
    assert "fifo.png: it is not a regular file" in said.err and "/dev/zero: it is not a regular file" in said.err


def test_the_onnx_file_agrees_with_torch_for_any_batch(shipped: Shipped, dataset: Dataset) -> None:
    network, card, folder = shipped
    predictor = Predictor(folder / "fp32.onnx")
    assert predictor.card == card
    for count in (1, 3, 100):
        images = dataset.images_NHWC[:count]
        by_onnx, by_torch = predictor.probabilities(images), probabilities(network, card, images, CPU)
        assert np.abs(by_onnx - by_torch).max() < 1e-5
        assert by_onnx.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_the_onnx_file_is_one_file_without_paths_of_this_machine(shipped: Shipped) -> None:
    folder = shipped[2]
    assert {file.name for file in folder.iterdir()} == {"fp32.onnx", "int8.onnx"}
    for name in ("fp32.onnx", "int8.onnx"):
        content = (folder / name).read_bytes()
        assert str(PROJECT).encode() not in content and b"site-packages" not in content


def test_the_quantized_file_is_smaller_and_keeps_the_classes(shipped: Shipped, dataset: Dataset) -> None:
    folder = shipped[2]
    whole, small = Predictor(folder / "fp32.onnx"), Predictor(folder / "int8.onnx")
    assert small.card == whole.card
    assert (folder / "int8.onnx").stat().st_size < 0.5 * (folder / "fp32.onnx").stat().st_size
    classes = [predictor.probabilities(dataset.images_NHWC).argmax(axis=1) for predictor in (whole, small)]
    assert (classes[0] == classes[1]).mean() > 0.95


def test_evaluation_and_benchmark_speak_of_the_same_files(shipped: Shipped, dataset: Dataset) -> None:
    network, card, folder = shipped
    files = {"fp32": folder / "fp32.onnx", "int8": folder / "int8.onnx"}
    trainings = pd.DataFrame({"seed": [0], "best_epoch": [3], "val_accuracy": [0.9], "shipped": [True]})
    result = evaluate("m", network, card, trainings, files, dataset, Evaluate(), CPU)
    table = result.predictions
    assert len(table) == len(dataset.rows("test"))
    assert result.metrics["accuracy"] == (table["label"] == table["predicted"]).mean()
    assert result.metrics["variants"]["fp32"]["agreement"] == 1
    assert set(result.pictures) == {"confusion", "reliability", "mistakes"}
    known = [{"variant": variant} for variant in files]
    timed = benchmark([*files.values()], known, dataset.images_NHWC, Benchmark(rounds=3))
    assert [row["variant"] for row in timed["variants"]] == ["fp32", "int8"]
    for row in timed["variants"]:
        assert 0 < row["latency_ms"] <= row["latency_p95_ms"] and row["images_per_second_64"] > 0


def test_a_foreign_or_broken_model_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"broken\.onnx"):
        Predictor(tmp_path / "broken.onnx")
