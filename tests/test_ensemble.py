"""Ensembles: the mean of the members' probabilities. Its way through the DAG: see test_end_to_end.py."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Export, Prune, Quantize, load
from pipeline.errors import UserError
from pipeline.networks import weights
from pipeline.networks.architectures.ensemble import Ensemble
from pipeline.networks.architectures.ensemble import Member as Record
from pipeline.networks.deployable import probabilities
from pipeline.networks.weights import fresh
from pipeline.stages.ensemble import Member, combine, metrics
from pipeline.stages.export import export
from pipeline.stages.prune import remove_channels
from pipeline.stages.quantize import WEIGHTED, inner_nodes, quantize
from tests.test_config import changed

CPU = torch.device("cpu")
Members = dict[str, Member]


@pytest.fixture
def members(card: ModelCard) -> Members:
    """Three untrained networks of three kinds, each with a normalization of its own."""
    torch.manual_seed(0)
    cards = {
        "simple": card,
        "resnet": replace(card, architecture="simple_resnet", mean=(0.1, 0.2, 0.3), std=(0.9, 0.8, 0.7)),
        "hog": replace(card, architecture="hog_svm", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), options={"cell": 4}),
    }
    facts = {"parameters": 10, "training_images": 5, "macs": 100, "parameters_kept": 0.5, "macs_kept": 0.25}
    return {name: Member(fresh(own).eval(), own, facts) for name, own in cards.items()}


def test_probabilities_are_the_mean_of_the_members(members: Members, dataset: Dataset) -> None:
    network, card = combine(members)
    images = dataset.images_NHWC[:20]
    each = [probabilities(member.network, member.card, images, CPU) for member in members.values()]
    assert probabilities(network, card, images, CPU) == pytest.approx(np.mean(each, axis=0), abs=1e-6)


def test_a_class_that_all_members_rule_out_has_a_finite_logit() -> None:
    dense = torch.nn.Linear(3, 2)
    dense.bias = torch.nn.Parameter(torch.tensor([500.0, -500.0]))
    sure = torch.nn.Sequential(torch.nn.Flatten(), dense)
    logits = Ensemble([sure, sure], [Record(architecture="cnn")] * 2)(torch.zeros(1, 3, 1, 1))
    assert logits.isfinite().all()
    assert logits.softmax(dim=1)[0].tolist() == pytest.approx([1, 0])


def test_a_file_holds_all_of_it_also_of_pruned_members(members: Members, dataset: Dataset, tmp_path: Path) -> None:
    for name in ("simple", "resnet"):
        remove_channels(members[name].network, members[name].card, Prune())
    network, card = combine(members)
    weights.save(tmp_path / "pruned.safetensors", network, card)
    loaded, same_card = weights.load(tmp_path / "pruned.safetensors")
    images = dataset.images_NHWC[:20]
    assert same_card == card
    assert np.array_equal(probabilities(loaded, card, images, CPU), probabilities(network, card, images, CPU))


def test_onnx_and_int8_agree_with_it(members: Members, dataset: Dataset, tmp_path: Path) -> None:
    """Of every member the layers inside are quantized, and its first normalization and last layer are not."""
    export(*combine(members), *dataset.of("val"), Export(), tmp_path / "fp32.onnx")  # proves the agreement by itself
    made = quantize(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", dataset, Quantize())
    source = onnx.load(tmp_path / "fp32.onnx")
    weighted = [node for node in source.graph.node if node.op_type in WEIGHTED]
    assert made["quantized_layers"] == len(weighted) - len(members)
    assert not {"Transpose", "Softmax", "Log"} & {node.op_type for node in inner_nodes(source)}
    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    in_int8 = [node for node in nodes if all("Dequantize" in name for name in node.input[:2])]
    assert len([node for node in in_int8 if node.op_type in WEIGHTED]) == made["quantized_layers"]
    assert not {"Softmax", "ReduceMean", "Log"} & {node.op_type for node in in_int8}


def test_metrics_are_sums_over_the_members(members: Members, dataset: Dataset) -> None:
    sums = metrics(*combine(members), members, dataset, CPU)
    assert (sums["parameters"], sums["training_images"], sums["members"]) == (30, 5, ["simple", "resnet", "hog"])
    assert (sums["macs"], sums["parameters_kept"], sums["macs_kept"]) == (300, 0.5, 0.25)


def test_members_of_other_data_are_refused(members: Members) -> None:
    stranger = replace(members["resnet"], card=replace(members["resnet"].card, class_names=("a", "b", "c")))
    with pytest.raises(UserError, match="resnet was trained on other classes or images than simple"):
        combine({**members, "resnet": stranger})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("architecture: simple_cnn", "architecture: ensemble", "models.simple_cnn.architecture"),
        ("ensembles: {}", "ensembles: {e: {members: [simple_cnn, vgg]}}", "ensembles.e.members"),
        ("ensembles: {}", "ensembles: {e: {members: [simple_cnn]}}", "ensembles.e.members"),
        ("ensembles: {}", "ensembles: {e: {members: [simple_cnn, simple_cnn]}}", "ensembles.e.members"),
        ("ensembles: {}", "ensembles: {simple_cnn: {members: [simple_cnn, modern_cnn]}}", "ensembles.simple_cnn"),
    ],
)
def test_wrong_entries_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        load(changed(tmp_path, (old, new)))


def test_an_ensemble_counts_as_a_model(tmp_path: Path) -> None:
    params = load(changed(tmp_path, ("ensembles: {}", "ensembles: {both: {members: [simple_cnn, modern_cnn]}}")))
    assert params.names == [*params.models, "both"]
    assert (params.weights_stage("both"), params.weights_stage("simple_cnn")) == ("ensemble", "train")
