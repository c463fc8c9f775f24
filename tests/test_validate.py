"""`validate`: each fault fails the check that is about it; a critical failure stops; drift is deferred_signals."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import layout
from pipeline.artifacts import read_images, sha256, write_json, write_table
from pipeline.cli.data import accept
from pipeline.config import Ingest, Validate
from pipeline.errors import UserError
from pipeline.inspection.drift import PROFILE, profile, read_profile
from pipeline.inspection.expectations import Finding
from pipeline.stages.ingest import Ingested, ingest
from pipeline.stages.validate import validate
from tests.dirty import clean_folder

NAMES = ["Ka\u0308se", "k\u00e4se "]
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


def test_good_data_pass_and_leave_data_docs(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    manifest, images = clean[0].manifest, clean[1]
    findings = judged(manifest, images, tmp_path, accepted=manifest)
    assert "drift" in findings and all(finding.passed and not finding.count for finding in findings.values())
    assert {page.stem for page in (tmp_path / "expectations").glob("*.html")} == {"images", "dataset"}


def test_each_fault_is_found_by_its_own_checks(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    """One fault a row, and too few dogs: the checks that are about it name that row, and no other check does."""
    manifest, images = clean[0].manifest.head(35).copy(), clean[1][:35]
    faults: dict[int, tuple[dict[str, Any], list[str]]] = {
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
    assert {name: found.rows for name, found in findings.items() if not found.passed} == wanted
    assert judged(manifest, images, tmp_path, tolerated=0.05)["brightness"].passed


def test_a_fault_of_the_data_set_is_named(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    manifest, images = clean[0].manifest, clean[1]
    renamed = manifest.assign(**{"class": manifest["class"].map(dict(zip(("cat", "dog"), NAMES, strict=True)))})
    lighter = manifest.assign(brightness=manifest["brightness"] * 1.6)
    findings = judged(renamed, images, tmp_path, accepted=lighter, classes=["cow"])
    assert findings["known_classes"].severity == "critical"
    assert findings["known_classes"].first == ["cow (no image)", *(f"{name} (not expected)" for name in NAMES)]
    assert findings["class_names"].first == [repr(name) for name in NAMES]
    assert [name.split()[0] for name in findings["drift"].first] == ["brightness", "classes"]
    aside = pd.DataFrame({"path": ["cow/1.jpg"], "class": ["cow"], "reason": ["empty"]})
    assert judged(manifest, images, tmp_path, aside)["known_classes"].first == ["cow (no image)"]


def test_many_copies_of_one_file_make_no_outliers(clean: tuple[Ingested, np.ndarray], tmp_path: Path) -> None:
    rows = np.array([0] * 100 + list(range(60)))
    findings = judged(clean[0].manifest.iloc[rows], clean[1][rows], tmp_path)
    assert findings["sharpness_outlier"].count == findings["brightness_outlier"].count == 0


def test_what_is_critical_stands_in_the_parameters(
    clean: tuple[Ingested, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, images = clean
    asked = [Validate.model_validate({"min_side": 200, "critical": critical}) for critical in ([], ["side"])]
    warned, failed = (validate(found.manifest, NOTHING, images, None, config, tmp_path) for config in asked)
    warned.conclude()
    assert capsys.readouterr().err.startswith("warning: side: 60 of 60 (cat/000.jpg, ")
    assert warned.report()["warnings"] == failed.report()["critical_failures"] == 1
    with pytest.raises(UserError, match=r"side: 60 of 60 \(cat/000\.jpg, .*params\.yaml"):
        failed.conclude()


def test_not_one_readable_image_is_a_sentence(tmp_path: Path) -> None:
    aside = pd.DataFrame({"path": ["a/1.jpg"], "class": ["a"], "reason": ["it is not an image"]})
    with pytest.raises(UserError, match=r"a/1\.jpg: it is not an image"):
        validate(NOTHING, aside, np.empty((0, 32, 32, 3), np.uint8), None, Validate(), tmp_path)


@pytest.mark.usefixtures("working_folder")
def test_accepting_needs_data_without_critical_failures(clean: tuple[Ingested, np.ndarray]) -> None:
    write_table(layout.MANIFEST, clean[0].manifest)
    with pytest.raises(UserError, match="dvc repro validate"):
        accept()
    write_json(layout.VALIDATION, {"critical_failures": 1, "manifest": sha256(layout.MANIFEST)})
    with pytest.raises(UserError, match=r"critical .*validation\.json"):
        accept()
    assert read_profile() is None
    write_json(layout.VALIDATION, {"critical_failures": 0, "manifest": sha256(layout.MANIFEST)})
    accept()
    assert read_profile() == profile(clean[0].manifest)
    write_table(layout.MANIFEST, clean[0].manifest.head(50))
    with pytest.raises(UserError, match=r"manifest\.parquet.*dvc repro validate"):
        accept()


@pytest.mark.usefixtures("working_folder")
def test_a_damaged_profile_is_named() -> None:
    write_json(PROFILE, {})
    PROFILE.write_text("<<<<<<< HEAD")
    with pytest.raises(UserError, match=r"profile\.json is damaged"):
        read_profile()
