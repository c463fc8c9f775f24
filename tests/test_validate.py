"""`validate`: each fault fails the check that is about it; a critical failure stops; drift is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import layout
from pipeline.artifacts import read_images, sha256, write_json, write_table
from pipeline.cli.data import accept
from pipeline.config import Ingest, Validate
from pipeline.errors import UserError
from pipeline.inspection.drift import PROFILE, profile, read_profile
from pipeline.inspection.findings import Finding
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
    found = validate(manifest.reset_index(drop=True), quarantine, images_NHWC, known, config, docs)
    return {finding.check: finding for finding in found.findings}


def failures(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if not finding.passed}


def test_good_data_pass_and_leave_data_docs(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    """Every check passes; the HTML of both suites is there."""
    found, images = clean
    assert failures(judged(found.manifest, images, tmp_path / "docs")) == set()
    assert (tmp_path / "docs" / "index.html").exists()
    assert {page.stem for page in (tmp_path / "docs" / "expectations").glob("*.html")} == {"images", "dataset"}


def test_each_fault_is_found_by_its_own_checks(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    """One fault a row, and too few dogs: the checks that are about it name that row, and no other check does."""
    manifest, images = clean[0].manifest.head(35).copy(), clean[1][:35]
    faults = {
        0: ({"width": 4, "height": 4}, ["side", "size"]),
        1: ({"width": 500}, ["aspect"]),
        2: ({"width": 600, "height": 600}, ["size"]),
        3: ({"brightness": 0.995}, ["brightness", "brightness_outlier"]),
        4: ({"contrast": 0.0}, ["contrast"]),
        5: ({"brightness": 0.03}, ["brightness_outlier"]),
        6: ({"sharpness": 1.0}, ["sharpness_outlier"]),
        7: ({"mode": "L"}, ["colour"]),
        8: ({"note": "a wrong checksum"}, ["intact"]),
    }
    wanted: dict[str, list[int]] = {"balance": list(range(30, 35))}
    for row, (cells, checks) in faults.items():
        manifest.loc[row, list(cells)] = list(cells.values())
        for check in checks:
            wanted.setdefault(check, []).append(row)
    findings = judged(manifest, images, tmp_path, max_imbalance=5.0, min_images_per_class=3, tolerated=0.0)
    assert {name: findings[name].rows for name in failures(findings)} == wanted


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


def test_what_is_critical_stands_in_the_parameters(
    clean: tuple[Ingested, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A warning passes, a critical failure stops with check, count and paths."""
    found, images = clean
    warned, failed = (
        validate(found.manifest, NOTHING, images, None, Validate(min_side=200, critical=critical), tmp_path)
        for critical in ([], ["side"])
    )
    warned.conclude()
    assert capsys.readouterr().err.startswith("warning: side: 60 of 60 (cat/000.jpg, ")
    assert warned.report()["warnings"] == failed.report()["critical_failures"] == 1
    with pytest.raises(UserError, match=r"side: 60 of 60 \(cat/000\.jpg, .*params\.yaml"):
        failed.conclude()


def test_unreadable_files_are_the_ones_that_are_named(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    """Not the good images beside them."""
    aside = pd.DataFrame({"path": ["cat/bad.jpg", "dog/bad.jpg"], "class": ["cat", "dog"], "reason": "empty"})
    finding = judged(clean[0].manifest, clean[1], tmp_path, aside)["readable"]
    assert (finding.passed, finding.count, finding.of, finding.first) == (False, 2, 62, aside["path"].tolist())


def test_not_one_readable_image_is_a_sentence(tmp_path: Path) -> None:
    """With the first reason."""
    aside = pd.DataFrame({"path": ["a/1.jpg"], "class": ["a"], "reason": ["it is not an image"]})
    with pytest.raises(UserError, match=r"a/1\.jpg: it is not an image"):
        validate(NOTHING, aside, np.empty((0, 32, 32, 3), np.uint8), None, Validate(), tmp_path)


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


def test_accepting_needs_data_that_were_validated_without_critical_failures(
    clean: tuple[Ingested, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was validated last becomes the reference."""
    monkeypatch.chdir(tmp_path)
    write_table(layout.MANIFEST, clean[0].manifest)
    with pytest.raises(UserError, match="dvc repro validate"):
        accept()
    for failures in (1, 0):
        write_json(layout.VALIDATION, {"critical_failures": failures, "manifest": sha256(layout.MANIFEST)})
        if failures:
            with pytest.raises(UserError, match=r"critical .*validation\.json"):
                accept()
    assert read_profile() is None
    accept()
    assert read_profile() == profile(clean[0].manifest)
    write_table(layout.MANIFEST, clean[0].manifest.head(50))
    with pytest.raises(UserError, match=r"manifest\.parquet.*dvc repro validate"):
        accept()


def test_a_damaged_profile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not taken for none."""
    monkeypatch.chdir(tmp_path)
    write_json(PROFILE, {})
    PROFILE.write_text("<<<<<<< HEAD")
    with pytest.raises(UserError, match=r"profile\.json is damaged"):
        read_profile()


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
