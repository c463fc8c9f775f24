"""`validate`: each fault fails the check that is about it; a critical failure stops; drift is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts import read_images, sha256
from pipeline.cli.data import accept
from pipeline.config import Ingest, Validate
from pipeline.inspection.drift import profile, read_profile
from pipeline.inspection.findings import Finding, raise_critical, report
from pipeline.stages.ingest import Ingested, ingest
from pipeline.stages.validate import validate
from tests.dirty import clean_folder

NOTHING = pd.DataFrame(columns=["path", "class", "reason"])


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ingested, np.ndarray]:
    """120 pictures of cats and dogs, none like another."""
    folder = tmp_path_factory.mktemp("clean")
    root = clean_folder(folder / "images") / "train"
    found = ingest(Ingest(source="image_folder", root=str(root), image_size=32), folder / "images.npy")
    return found, read_images(folder / "images.npy")


def judged(
    manifest: pd.DataFrame, images_NHWC: np.ndarray, docs: Path, quarantine: pd.DataFrame = NOTHING,
    accepted: pd.DataFrame | None = None, **thresholds: object,
) -> dict[str, Finding]:  # fmt: skip
    known = profile(accepted) if accepted is not None else None
    config = Validate.model_validate(thresholds)
    result = validate(manifest.reset_index(drop=True), quarantine, images_NHWC, known, config, docs)
    return {finding.check: finding for finding in result.findings}


def failures(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if not finding.passed}


def test_good_data_pass_and_leave_data_docs(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    """Every check passes; the HTML of both suites is there."""
    found, images = clean
    assert failures(judged(found.manifest, images, tmp_path / "docs")) == set()
    assert (tmp_path / "docs" / "index.html").exists()
    assert {page.stem for page in (tmp_path / "docs" / "expectations").glob("*.html")} == {"images", "dataset"}


def test_each_fault_fails_its_own_check(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    """One fault each: the check that is about it fails, and no other."""
    manifest, images = clean[0].manifest, clean[1]
    few = manifest.index < 35
    faults = {
        "balance": manifest[few],
        "side": manifest.assign(width=4, height=4),
        "aspect": manifest.assign(width=500),
        "size": manifest.assign(
            width=np.where(manifest.index == 3, 600, 100), height=np.where(manifest.index == 3, 600, 100)
        ),
        "brightness": manifest.assign(brightness=0.995),
        "contrast": manifest.assign(contrast=0.0),
        "brightness_outlier": manifest.assign(brightness=manifest["brightness"].where(manifest.index > 2, 0.03)),
        "sharpness_outlier": manifest.assign(sharpness=manifest["sharpness"].where(manifest.index > 2, 1.0)),
        "colour": manifest.assign(mode=manifest["mode"].where(manifest.index > 2, "L")),
    }
    for name, table in faults.items():
        pixels = images[table.index.to_numpy()]
        assert failures(judged(table, pixels, tmp_path / name, max_imbalance=5.0, min_images_per_class=3)) == {name}


def test_a_few_exceptions_are_tolerated_but_noted(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    """`tolerated` decides; the finding is there all the same, for the page."""
    manifest = clean[0].manifest
    dark = manifest.assign(brightness=manifest["brightness"].where(manifest.index > 0, 0.001))
    findings = judged(dark, clean[1], tmp_path, tolerated=0.05)
    assert findings["brightness"].passed
    assert findings["brightness"].count == 1
    assert not judged(dark, clean[1], tmp_path, tolerated=0.0)["brightness"].passed


def test_classes_must_be_the_expected_ones(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    """One is missing, one is not known; a class of which nothing can be read is missing too."""
    found, images = clean
    finding = judged(found.manifest, images, tmp_path, classes=["cat", "horse"])["known_classes"]
    assert finding.severity == "critical"
    assert finding.first == ["horse (no image)", "dog (not expected)"]
    aside = pd.DataFrame({"path": ["cow/1.jpg"], "class": ["cow"], "reason": ["empty"]})
    assert judged(found.manifest, images, tmp_path, aside)["known_classes"].first == ["cow (no image)"]
    assert judged(found.manifest, images, tmp_path, classes=["cat", "dog"])["known_classes"].passed


def test_what_is_critical_stands_in_the_parameters(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    """A warning passes, a critical failure stops with expectation, count and paths."""
    found, images = clean
    findings = judged(found.manifest, images, tmp_path, min_side=200)
    raise_critical(list(findings.values()))
    assert report(list(findings.values()))["warnings"] == 1
    findings = judged(found.manifest, images, tmp_path, min_side=200, critical=["side"])
    with pytest.raises(ValueError, match=r"'sides are at least 200 pixels', at 60 of 60, first: cat/000\.jpg, cat/001"):
        raise_critical(list(findings.values()))


def test_unreadable_files_are_the_ones_that_are_named(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    """Not the good images beside them."""
    aside = pd.DataFrame({"path": ["cat/bad.jpg", "dog/bad.jpg"], "class": ["cat", "dog"], "reason": "empty"})
    with pytest.raises(ValueError, match=r"at 2 of 62, first: cat/bad\.jpg, dog/bad\.jpg"):
        raise_critical(list(judged(clean[0].manifest, clean[1], tmp_path, aside).values()))


def test_not_one_readable_image_is_a_sentence(tmp_path: Path) -> None:
    """With the first reason."""
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        (tmp_path / "images" / label / "1.jpg").write_text("x")
    found = ingest(Ingest(source="image_folder", root=str(tmp_path / "images")), tmp_path / "images.npy")
    with pytest.raises(ValueError, match=r"not one image could be read, first a/1\.jpg: it is not an image"):
        validate(found.manifest, found.quarantine, read_images(tmp_path / "images.npy"), None, Validate(), tmp_path)


def test_an_empty_cell_of_the_manifest_is_an_error(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    """Every column is full, or the manifest is broken."""
    holed = clean[0].manifest.assign(format=clean[0].manifest["format"].where(clean[0].manifest.index > 0, None))
    with pytest.raises(ValueError, match="the manifest has empty values in format"):
        judged(holed, clean[1], tmp_path)


def test_drift_from_the_accepted_data_is_a_warning_that_names_the_measure(
    clean: tuple[Ingested, np.ndarray], tmp_path: Path
) -> None:
    """The same data have not moved; darker ones have."""
    found, images = clean
    assert judged(found.manifest, images, tmp_path, accepted=found.manifest)["drift"].passed
    darker = found.manifest.assign(brightness=found.manifest["brightness"] * 0.6)
    finding = judged(darker, images, tmp_path, accepted=found.manifest)["drift"]
    assert (finding.passed, finding.severity) == (False, "warning")
    assert [name.split()[0] for name in finding.first] == ["brightness"]
    assert "drift" not in judged(found.manifest, images, tmp_path)  # nothing was accepted yet


def test_accepting_needs_data_without_critical_failures(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    """What was validated last becomes the reference."""
    artifacts, reference = tmp_path / "artifacts", tmp_path / "reference"
    with pytest.raises(ValueError, match="run `dvc repro validate` first"):
        accept(reference, artifacts)
    for stage in ("ingest", "validate"):
        (artifacts / stage).mkdir(parents=True)
    clean[0].manifest.to_parquet(artifacts / "ingest" / "manifest.parquet")
    for failed in (1, 0):
        validation = {"critical_failures": failed, "manifest": sha256(artifacts / "ingest" / "manifest.parquet")}
        (artifacts / "validate" / "validation.json").write_text(json.dumps(validation))
        if failed:
            with pytest.raises(ValueError, match="the data fail a critical expectation"):
                accept(reference, artifacts)
    accept(reference, artifacts)
    assert json.loads((reference / "profile.json").read_text())["classes"] == {"cat": 30, "dog": 30}
    clean[0].manifest.head(50).to_parquet(artifacts / "ingest" / "manifest.parquet")
    with pytest.raises(ValueError, match=r"manifest\.parquet is newer than .*run `dvc repro validate` first"):
        accept(reference, artifacts)


@pytest.mark.parametrize("content", ["{bad", "{}", '{"images": 3}', "[]"])
def test_a_damaged_profile_is_named(tmp_path: Path, content: str) -> None:
    """Not taken for none."""
    assert read_profile(tmp_path) is None
    (tmp_path / "profile.json").write_text(content)
    with pytest.raises(ValueError, match=r"profile\.json is damaged: restore it from git, or delete it"):
        read_profile(tmp_path)


def test_classes_with_look_alike_names_are_a_warning(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    """Case, outer spaces, and two ways to write an umlaut."""
    found, images = clean
    for one, other in (("Cat", "cat "), ("K\u00e4se", "Ka\u0308se")):
        renamed = found.manifest.assign(**{"class": found.manifest["class"].map({"cat": one, "dog": other})})
        finding = judged(renamed, images, tmp_path / one)["class_names"]
        assert (finding.passed, finding.severity, finding.count) == (False, "warning", 2)


def test_many_copies_of_one_file_make_no_outliers_of_the_others(
    clean: tuple[Ingested, np.ndarray], tmp_path: Path
) -> None:
    """The median is that of distinct images."""
    found, images = clean
    rows = np.array([0] * 100 + list(range(60)))
    findings = judged(found.manifest.iloc[rows], images[rows], tmp_path)
    assert findings["sharpness_outlier"].count == findings["brightness_outlier"].count == 0
