"""`init` writes a params.yaml that fits the data, and never loses one."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipeline.cli.data import data
from pipeline.cli.init import KNOWN, init
from pipeline.config import Params, load
from pipeline.datasets import sources
from pipeline.errors import UserError
from tests.conftest import PROJECT, touch, write_digits

pytestmark = pytest.mark.usefixtures("working_folder")


@pytest.fixture
def scans(working_folder: Path) -> Path:
    """Two classes of 40 scans, to be changed."""
    return write_digits(working_folder / "scans", classes=2, per_class=40).relative_to(working_folder)


def fitted(images: Path) -> Params:
    init(images=images)
    return load()


def test_the_shipped_params_are_those_of_digits() -> None:
    """A field that is added, or reworded, goes into the shipped file by `init --dataset digits`."""
    init(dataset="digits")
    assert Path("params.yaml").read_bytes() == (PROJECT / "params.yaml").read_bytes()


def test_a_folder_gets_values_that_fit(digit_folder: Path) -> None:
    params = fitted(digit_folder)
    assert (params.experiment, params.ingest.source, params.ingest.image_size) == ("images", "image_folder", 32)
    assert params.ingest.root == str(digit_folder)
    large = shutil.copytree(digit_folder, "große Bilder")
    for file in Path(large).rglob("*.png"):
        Image.open(file).resize((300, 200)).save(file)
    params = fitted(Path(large))
    assert (params.ingest.root, params.ingest.image_size, params.registry.name) == (large, 128, "gro-e-Bilder")


@pytest.mark.parametrize("name", ["my pics #2", "2024", "true", "a: b", "null", "q'uo\"te", "- x"])
def test_any_folder_name_survives(scans: Path, name: str) -> None:
    assert fitted(scans.rename(name)).ingest.root == name


def test_a_table_is_the_labels_of_its_folder(scans: Path) -> None:
    rows = [f"{path.relative_to(scans)},{path.parent.name}" for path in scans.rglob("*.png")]
    (scans / "my labels.CSV").write_text("\n".join(["path,label", *rows, "no-label.png"]))
    params = fitted(scans / "my labels.CSV")
    assert (params.ingest.source, params.ingest.root) == ("csv", "scans")
    assert (params.ingest.labels, params.experiment) == ("my labels.CSV", "my-labels")


def test_an_archive_is_looked_into(scans: Path) -> None:
    """The size of its images is known without unpacking it by hand; nothing of it stays."""
    for file in scans.rglob("*.png"):
        Image.open(file).resize((64, 70)).save(file)
    archive = Path(shutil.make_archive("scans.v1", "gztar", scans))
    ingest = fitted(archive).ingest
    assert (ingest.source, ingest.root, ingest.image_size) == ("archive", "scans.v1.tar.gz", 64)
    assert sorted(path.name for path in Path().iterdir()) == ["params.yaml", "scans", "scans.v1.tar.gz"]


def test_faults_and_broken_files_do_not_count(tmp_path: Path, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty class is no third class, hundreds of broken files do not hide the others' size, litter is noted."""
    before = fitted(scans)
    (scans / "empty").mkdir()
    (scans / "loop").symlink_to(tmp_path / "scans")
    (scans / "digit-0" / "fifo").symlink_to(tmp_path / "fifo")
    (scans / "digit-0" / "a.xml").touch()
    os.mkfifo("fifo")
    for number in range(300):
        (scans / "digit-0" / f"!{number}.png").write_bytes(b"broken")
    after = fitted(scans)
    assert (after.registry.min_accuracy, after.validate_.min_images_per_class) == (0.75, 10)
    assert after.ingest == before.ingest
    assert "passed over: 1 .xml" in capsys.readouterr().out


@pytest.mark.parametrize(("strays", "each", "least"), [(1, 40, 10), (9, 40, 10), (7, 8, 7), (0, 12, 10)])
def test_the_least_class_is_not_fitted_to_junk(scans: Path, strays: int, each: int, least: int) -> None:
    """A folder of a few strays is found by `validate`; where all classes are small the threshold is lower."""
    for file in sorted(scans.glob("*/*.png")):
        if int(file.stem) >= each:
            file.unlink()
    for number in range(strays):
        (scans / "unsorted").mkdir(exist_ok=True)
        shutil.copy(scans / "digit-0" / "000.png", scans / "unsorted" / f"{number}.png")
    assert fitted(scans).validate_.min_images_per_class == least


def test_every_named_dataset_has_values() -> None:
    assert set(KNOWN) == set(sources()) - {"image_folder", "csv", "archive"}
    for name in KNOWN:
        init(dataset=name)
        params = load()
        assert (params.ingest.source, params.experiment) == (name, name)
        assert 0 < params.registry.min_accuracy <= 0.9


def test_an_edited_file_is_kept() -> None:
    for content in (b"# mine 1\n", "# Vögel\n".encode("latin-1")):
        Path("params.yaml").write_bytes(content)
        init(dataset="digits")
    assert Path("params.yaml.bak").read_bytes() == b"# mine 1\n"
    assert Path("params.yaml.bak2").read_bytes() == "# Vögel\n".encode("latin-1")
    init(dataset="digits")
    assert not Path("params.yaml.bak3").exists()


def test_a_page_that_cannot_be_written_is_said_before_the_work(digit_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"page\.html cannot be written: give --page"):
        data(digit_folder, tmp_path / "none" / "page.html")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"images": Path("/nowhere")}, "/nowhere does not exist"),
        ({"dataset": "imagenet"}, "'imagenet'; there are: cifar10, cifar100, digits, "),
        ({"images": Path()}, "holds the project itself"),
        ({}, "--images PATH or --dataset NAME"),
        ({"images": PROJECT / "README.md"}, r"README\.md"),
    ],
)
def test_what_init_cannot_do_it_says_and_writes_nothing(arguments: dict[str, object], said: str) -> None:
    Path("params.yaml").write_text("# mine\n")
    with pytest.raises(UserError, match=said):
        init(**arguments)  # type: ignore[arg-type]  # of the parameters
    assert Path("params.yaml").read_text() == "# mine\n"


def test_a_folder_with_a_table_gets_a_hint() -> None:
    """Flat images and one CSV that names them; with another table the choice is left to people."""
    touch(Path("flat"), "1.png", "2.png")
    table, other, more = (Path("flat", name) for name in ("labels.csv", "other.csv", "more.csv"))
    for path, header in ((table, "file,class"), (other, "a,b"), (more, "file,class")):
        path.write_text(f"{header}\n")
    with pytest.raises(UserError, match=rf"^flat .*--images {table} or {more}$"):
        init(images=Path("flat"))
    more.unlink()
    table.write_text("image_id,label\n1,a\n")  # Kaggle's train.csv is the one that people mean, no sample submission
    with pytest.raises(UserError, match=rf"{table} has the columns image_id, label.*nor does {other} fit"):
        init(images=Path("flat"))


@pytest.mark.parametrize("alike", [False, True])
def test_copies_are_not_alike_by_nature(digit_folder: Path, capsys: pytest.CaptureFixture[str], alike: bool) -> None:
    """Each photo ten times: near-duplicates are still looked for. In ten shades: these are alike."""
    for digit in ("digit-0", "digit-1"):
        Path("images", digit).mkdir(parents=True)
        for copy in range(10):
            for file in sorted((digit_folder / digit).iterdir())[:4]:
                shade = Image.open(file).point([min(255, value + copy * alike) for value in range(256)])
                shade.save(Path("images", digit, f"{copy}-{file.name}"))
    assert (fitted(Path("images")).validate_.min_similarity == 1) is alike
    assert ("alike by nature" in capsys.readouterr().out) is alike


@pytest.mark.parametrize("name", ["images", "table.csv", "a.zip"])
def test_a_fifo_is_not_waited_for(name: str) -> None:
    file = Path("folder", name)
    file.parent.mkdir()
    os.mkfifo(file)
    for command in (init, data):
        with pytest.raises(UserError, match=f"{name} is not a file"):
            command(images=file)


def test_a_folder_without_a_readable_image_is_named(scans: Path) -> None:
    for file in scans.rglob("*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(UserError, match=r"scans: none of 80 files .*digit-\d/0\d\d\.png: "):
        init(images=scans)
