"""`init` writes a params.yaml that fits the data, and never loses one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipeline.cli.data import data
from pipeline.cli.init import init
from pipeline.cli.presets import named
from pipeline.commands.data import ingest
from pipeline.config import load
from pipeline.datasets import sources
from tests.conftest import PROJECT, touch, write_digits


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


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two classes of 40 scans, to be changed."""
    return write_digits(tmp_path / "scans", classes=2, per_class=40)


def test_a_table_is_the_labels_of_its_folder(tmp_path: Path, scans: Path) -> None:
    """`root` is the folder that the paths start from, `labels` the table's name."""
    rows = [f"{path.relative_to(scans)},{path.parent.name}" for path in scans.rglob("*.png")]
    (scans / "my labels.CSV").write_text("\n".join(["path,label", *rows, "no-label.png"]))
    init(images=scans / "my labels.CSV", params=tmp_path / "params.yaml")
    params = load(tmp_path / "params.yaml")
    assert (params.ingest.source, params.ingest.root) == ("csv", str(scans))
    assert (params.ingest.labels, params.experiment) == ("my labels.CSV", "my-labels")


def test_an_archive_is_looked_into(tmp_path: Path, scans: Path) -> None:
    """The size of its images is known without unpacking it by hand; nothing of it stays."""
    for file in scans.rglob("*.png"):
        Image.open(file).resize((64, 70)).save(file)
    archive = Path(shutil.make_archive(str(tmp_path / "scans.v1"), "gztar", scans))
    init(images=archive, params=tmp_path / "params.yaml")
    params = load(tmp_path / "params.yaml")
    assert (params.ingest.source, params.ingest.root, params.ingest.image_size) == ("archive", str(archive), 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "scans", "scans.v1.tar.gz"]


def test_faults_and_broken_files_do_not_count(tmp_path: Path, scans: Path) -> None:
    """An empty class is no third class, and hundreds of broken files do not hide the others' size."""
    init(images=scans, params=tmp_path / "params.yaml")
    before = load(tmp_path / "params.yaml")
    (scans / "empty").mkdir()
    (scans / "loop").symlink_to(scans)
    (scans / "digit-0" / "fifo").symlink_to(tmp_path / "fifo")
    os.mkfifo(tmp_path / "fifo")
    for number in range(300):
        (scans / "digit-0" / f"!{number}.png").write_bytes(b"broken")
    init(images=scans, params=tmp_path / "params.yaml")
    after = load(tmp_path / "params.yaml")
    assert after.registry.min_accuracy == before.registry.min_accuracy == 0.75
    assert after.validate_.min_images_per_class == before.validate_.min_images_per_class == 10
    assert after.ingest == before.ingest


@pytest.mark.parametrize(("strays", "each", "fitted"), [(1, 40, 10), (3, 40, 10), (9, 40, 10), (7, 8, 7), (0, 12, 10)])
def test_the_least_class_is_not_fitted_to_junk(
    tmp_path: Path, scans: Path, strays: int, each: int, fitted: int
) -> None:
    """A folder of a few strays is found by `validate`; where all classes are small the threshold is lower."""
    for file in sorted(scans.glob("*/*.png")):
        if int(file.stem) >= each:
            file.unlink()
    for number in range(strays):
        (scans / "unsorted").mkdir(exist_ok=True)
        shutil.copy(scans / "digit-0" / "000.png", scans / "unsorted" / f"{number}.png")
    init(images=scans, params=tmp_path / "params.yaml")
    assert load(tmp_path / "params.yaml").validate_.min_images_per_class == fitted


def test_every_named_dataset_has_values(tmp_path: Path) -> None:
    """Nothing is downloaded: `init` asks for no file. What is no dataset of its own is given with --images."""
    assert set(named()) == set(sources()) - {"image_folder", "csv", "archive"}
    expected = {"mnist": (28, "digits", 1), "fashion_mnist": (28, "light", 1), "svhn": (32, "digits", 1),
                "cifar10": (32, "standard", 0.9), "cifar100": (32, "standard", 0.9), "stl10": (96, "standard", 0.9),
                "eurosat": (64, "standard", 0.9), "flowers102": (128, "standard", 0.9)}  # fmt: skip
    for name, values in expected.items():
        init(dataset=name, params=tmp_path / "params.yaml")
        params = load(tmp_path / "params.yaml")
        assert (params.ingest.source, params.ingest.root, params.experiment) == (name, "data/downloads", name)
        assert (params.ingest.image_size, params.augment.policy, params.validate_.min_similarity) == values
        assert 0 < params.registry.min_accuracy <= 0.9


def test_a_folder_inside_the_project_is_named_from_there(
    tmp_path: Path, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC then finds it in every clone; the project itself cannot be watched, as its outputs lie in it."""
    monkeypatch.chdir(tmp_path)
    init(images=Path("scans"))
    assert load(Path("params.yaml")).ingest.root == "scans"
    monkeypatch.chdir(scans)
    with pytest.raises(ValueError, match=r"\. holds the project itself, which DVC cannot watch: move the images"):
        init(images=Path())


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
        ({"images": Path("/nowhere")}, "/nowhere does not exist: give a folder, a CSV file or an archive"),
        ({"dataset": "imagenet"}, "no built-in dataset is called 'imagenet'; there are: cifar10, cifar100, digits, "),
        ({"dataset": "csv"}, "no built-in dataset is called 'csv'"),
        ({}, "give either --images PATH or --dataset NAME"),
        ({"images": PROJECT / "README.md"}, "README.md cannot be unpacked"),
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


def test_a_folder_with_a_table_gets_a_hint(tmp_path: Path, scans: Path) -> None:
    """Flat images and one CSV that names them; with another table the choice is left to people."""
    for folder in ("digit-0", "digit-1"):
        for file in (scans / folder).iterdir():
            file.rename(scans / f"{folder}-{file.name}")
        (scans / folder).rmdir()
    (scans / "labels.csv").write_text("file,class\n")
    (scans / "other.csv").write_text("a,b\n")
    with pytest.raises(
        ValueError, match=r"no class folders: .*; for the labels in its table say --images .*labels\.csv$"
    ):
        init(images=scans, params=tmp_path / "params.yaml")
    (scans / "more.csv").write_text("file,class\n")
    with pytest.raises(ValueError, match=r"no class folders: .*--images .*labels\.csv or .*more\.csv$"):
        init(images=scans, params=tmp_path / "params.yaml")
    (scans / "more.csv").unlink()
    (scans / "labels.csv").write_text("image_id,label\n")
    with pytest.raises(ValueError, match=r"no class folders: .*labels\.csv has the columns image_id, label"):
        init(images=scans, params=tmp_path / "params.yaml")


def test_all_tables_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """Kaggle's train.csv is the one that people mean, not the sample of a submission."""
    touch(tmp_path / "k", "train/1.jpg", "test/1.jpg")
    (tmp_path / "k" / "train.csv").write_text("id,label\n1.jpg,a\n2.jpg,b\n")
    (tmp_path / "k" / "sample_submission.csv").write_text("id,label\n1.jpg,a\n")
    with pytest.raises(ValueError, match=r"train\.csv has the columns id, label.*sample_submission\.csv"):
        init(images=tmp_path / "k", params=tmp_path / "params.yaml")


def test_copies_are_not_alike_by_nature(tmp_path: Path, digit_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each photo ten times: these are copies, and near-duplicates would still be found."""
    for digit in ("digit-0", "digit-1"):
        for copy in range(10):
            for file in sorted((digit_folder / digit).iterdir())[:4]:
                target = tmp_path / "copies" / digit / f"{copy}-{file.name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
    init(images=tmp_path / "copies", params=tmp_path / "params.yaml")
    assert "alike by nature" not in capsys.readouterr().out
    assert load(tmp_path / "params.yaml").validate_.min_similarity < 1


@pytest.mark.parametrize("name", ["images", "table.csv", "a.zip"])
def test_a_fifo_is_not_waited_for(tmp_path: Path, name: str) -> None:
    """Neither `init` nor `data` opens it."""
    os.mkfifo(tmp_path / name)
    for command in (init, data):
        with pytest.raises(ValueError, match=f"{name} is not a file"):
            command(images=tmp_path / name, params=tmp_path / "params.yaml")


def test_notes_are_told_where_they_matter(tmp_path: Path, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`init`, `data` and `ingest` say what was passed over, each once."""
    (scans / "digit-0" / "a.xml").write_text("x")
    params, out = tmp_path / "params.yaml", tmp_path / "out"
    init(images=scans, params=params)
    told = [capsys.readouterr().out]
    data(images=scans, params=params)
    told.append(capsys.readouterr().out)
    data(params=params)
    told.append(capsys.readouterr().out)
    ingest(out / "images.npy", out / "manifest.parquet", out / "quarantine.csv", out / "preprocessing.json", params)
    told.append(capsys.readouterr().out)
    assert [text.count("passed over: 1 .xml") for text in told] == [1, 1, 1, 1]


def test_a_folder_without_a_readable_image_is_named(tmp_path: Path, scans: Path) -> None:
    """No size can be chosen; one of the files is named, with what is wrong with it."""
    for file in scans.rglob("*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(
        ValueError, match=r"scans: none of its 80 files is an image that can be read: 0\d\d\.png: it is not an"
    ):
        init(images=scans, params=tmp_path / "params.yaml")
