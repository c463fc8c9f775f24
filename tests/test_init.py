"""`init` writes a params.yaml that fits the data, and never loses one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipeline.commands.setup import init
from pipeline.config import load
from tests.conftest import PROJECT


def test_the_shipped_params_are_those_of_digits(tmp_path: Path) -> None:
    """The embedded default is what `init --dataset digits` writes."""
    init(dataset="digits", params=tmp_path / "params.yaml")
    assert (tmp_path / "params.yaml").read_text() == (PROJECT / "params.yaml").read_text()


def test_a_folder_gets_values_that_fit(tmp_path: Path, digit_folder: Path) -> None:
    """Name, root and size come from the images; large pictures are brought to 128 pixels."""
    init(images=digit_folder, params=tmp_path / "params.yaml")
    params = load(tmp_path / "params.yaml")
    assert (params.experiment, params.ingest.source, params.ingest.image_size) == ("images", "image_folder", 32)
    assert params.ingest.root == str(digit_folder)
    large = shutil.copytree(digit_folder, tmp_path / "große Bilder")
    for file in large.rglob("*.png"):
        Image.open(file).resize((300, 200)).save(file)
    init(images=large, params=tmp_path / "params.yaml")
    assert load(tmp_path / "params.yaml").ingest.image_size == 128
    assert load(tmp_path / "params.yaml").registry.name == "gro-e-Bilder"


@pytest.mark.parametrize("name", ["my pics #2", "2024", "true", "a: b", "null", "q'uo\"te", "- x"])
def test_any_folder_name_survives(tmp_path: Path, digit_folder: Path, name: str) -> None:
    """YAML has many opinions about bare words; the folder is the one that was named."""
    images = shutil.copytree(digit_folder, tmp_path / name)
    init(images=images, params=tmp_path / "params.yaml")
    assert load(tmp_path / "params.yaml").ingest.root == str(images)


def test_cifar10_does_without_a_folder(tmp_path: Path) -> None:
    """Its archive may be downloaded later: `init` asks for nothing."""
    init(dataset="cifar10", params=tmp_path / "params.yaml")
    assert load(tmp_path / "params.yaml").ingest.source == "cifar10"


def test_an_edited_file_is_kept(tmp_path: Path) -> None:
    """Every earlier version stays beside the new one."""
    path = tmp_path / "params.yaml"
    for number in (1, 2):
        path.write_text(f"# mine {number}\n")
        init(dataset="digits", params=path)
    assert (tmp_path / "params.yaml.bak").read_text() == "# mine 1\n"
    assert (tmp_path / "params.yaml.bak2").read_text() == "# mine 2\n"
    init(dataset="digits", params=path)
    assert not (tmp_path / "params.yaml.bak3").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"images": Path("/nowhere")}, "/nowhere is not a folder"),
        ({"dataset": "imagenet"}, "no built-in dataset is called 'imagenet'; there are: cifar10, digits"),
        ({}, "give either --images DIR or --dataset NAME"),
    ],
)
def test_what_init_cannot_do_it_says_and_writes_nothing(
    tmp_path: Path, arguments: dict[str, object], said: str
) -> None:
    """The old params.yaml is untouched."""
    path = tmp_path / "params.yaml"
    path.write_text("# mine\n")
    with pytest.raises(ValueError, match=said):
        init(**arguments, params=path)  # type: ignore[arg-type]  # of the parameters
    assert path.read_text() == "# mine\n"
