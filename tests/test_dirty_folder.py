"""A folder with one of each fault: what happens to each, as the table in docs/dirty-folders.md says."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from pipeline.artifacts import read_images
from pipeline.config import Ingest, Validate
from pipeline.errors import UserError
from pipeline.inspection import gallery
from pipeline.inspection.expectations import Finding, Validation
from pipeline.stages.ingest import ingest
from pipeline.stages.validate import validate
from tests.dirty import clean_folder, dirty_folder


@dataclass(frozen=True)
class Judged:
    """Everything that ingest and validate say of a folder; by names of files, of which those asked for are unique."""

    manifest: pd.DataFrame
    quarantine: dict[str, str]
    validation: Validation
    page: str

    def failed(self) -> dict[str, Finding]:
        return {finding.check: finding for finding in self.validation.findings if not finding.passed}


def judged(root: Path, folder: Path) -> Judged:
    found = ingest(Ingest(source="image_folder", root=str(root), image_size=64), folder / "images.npy")
    images = read_images(folder / "images.npy")
    result = validate(found.manifest, found.quarantine, images, None, Validate(), folder / "docs")
    page = gallery.page(result, found.quarantine, images)
    aside = {Path(path).name: reason for path, _, reason in found.quarantine.itertuples(index=False)}
    return Judged(found.manifest.set_index(found.manifest["path"].str.rpartition("/")[2]), aside, result, page)


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    folder = tmp_path_factory.mktemp("dirty")
    return judged(dirty_folder(folder / "images"), folder)


def test_a_clean_folder_has_no_findings(tmp_path: Path) -> None:
    """No false alarm: every check passes with nobody outside."""
    clean = judged(clean_folder(tmp_path / "images"), tmp_path)
    assert clean.quarantine == {}
    assert [(f.check, f.count) for f in clean.validation.findings if f.count] == []


def test_what_is_no_image_is_set_aside(dirty: Judged) -> None:
    """Each with its path and a reason, and no good file or litter with them; so many are critical (max_quarantined)."""
    reasons = {
        "truncated.jpg": "damaged: Premature end of JPEG file",
        "damaged in the middle.jpg": "damaged",
        "empty.jpg": "the file is empty",
        "text.jpg": "not an image",
        "animated.gif": "animated or has several pages (2 frames)",
        "bomb.png": "more than 89,478,485 pixels (decompression bomb)",
        "loop": "a link to a folder that holds it (loop)",
        "itself.jpg": "cannot be opened: Too many levels of symbolic links",
        "empty class": "the class folder holds no image",
        "only litter": "the class folder holds no image",
    }
    assert set(dirty.quarantine) == set(reasons)
    assert [name for name, reason in reasons.items() if reason not in dirty.quarantine[name]] == []
    assert dirty.failed()["readable"].count == 8
    with pytest.raises(UserError, match="readable"):
        dirty.validation.conclude()


def test_unusual_images_become_rgb(dirty: Judged) -> None:
    """All of them are read; the manifest says what they were."""
    side = (100, 100)
    unusual = {
        **{"cmyk.jpg": ("CMYK", side), "sixteen bit.png": ("I;16", side), "rgba.png": ("RGBA", side)},
        **{"palette.png": ("P", side), "turned.jpg": ("RGB", (60, 100)), "Schöne Katze 猫.jpg": ("RGB", side)},
        **{"UPPER.JPG": ("RGB", side), "phone.heic": ("RGB", side), "huge.jpg": ("RGB", (3024, 3024))},
    }
    for name, what in unusual.items():
        found = dirty.manifest.loc[name]
        assert (found["mode"], (found["width"], found["height"])) == what and found["class"] == "cat", name


@pytest.mark.parametrize(
    ("check", "severity", "names"),
    [
        ("known_classes", "critical", ["empty class (no image)", "only litter (no image)"]),
        ("class_images", "critical", ["only one.jpg"]),
        ("one_label", "critical", ["003.jpg", "two labels.jpg"]),
        ("leakage", "warning", ["001.jpg", "002.jpg", "leaked, other quality.jpg", "leaked.jpg"]),
        ("intact", "warning", ["no end.jpg"]),
        ("size", "warning", ["huge.jpg"]),
        ("contrast", "warning", ["black.jpg", "sixteen bit.png"]),
        ("sharpness_outlier", "warning", ["black.jpg", "blurred.jpg", "huge.jpg", "rgba.png", "sixteen bit.png"]),
    ],
)
def test_each_finding_names_its_images(dirty: Judged, check: str, severity: str, names: list[str]) -> None:
    """The culprits and nobody else."""
    finding = dirty.failed()[check]
    assert finding.severity == severity
    assert sorted(Path(path).name for path in finding.first) == names


def test_the_page_shows_every_finding(dirty: Judged) -> None:
    """Thumbnails without a network, each with its path; and what was set aside, with the reason."""
    assert "https://" not in dirty.page
    for name in ("two labels.jpg", "leaked.jpg", "huge.jpg", "blurred.jpg", "animated.gif", "Premature end of JPEG"):
        assert name in dirty.page
    assert dirty.page.count("data:image/png;base64,") > 20
    assert dirty.validation.report()["critical_failures"] == 4
