"""`validate`: a Great Expectations suite over the manifest; a critical failure stops the pipeline.

Source of the suite's terms: https://docs.greatexpectations.io (expectations, severity, Data Docs).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.config import Validate

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

FIRST = 5  # paths that are named for a failed expectation
# Data Docs file their pages under the time of the run; a fixed one keeps DVC's outputs comparable
RUN_TIME = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Check:
    """One expectation on one column of the measured manifest.

    `says` is the sentence for people; `minimum` and `maximum` bound the column; `tolerated` is the share of images
    that may lie outside.
    """

    name: str
    says: str
    column: str
    severity: str
    minimum: float | None = None
    maximum: float | None = None
    tolerated: float = 0.0


@dataclass(frozen=True)
class Finding:
    """The outcome of a check: `count` images of `of` are outside, `first` are paths of some of them."""

    check: str
    says: str
    severity: str
    passed: bool
    count: int
    of: int
    first: list[str]


def checks(config: Validate) -> list[Check]:
    """What is asked of the data; adding a check is adding a line."""
    low, high = config.brightness
    some = config.tolerated
    return [
        Check("images per class", f"every class has at least {config.min_images_per_class} images", "class_images",
              "critical", minimum=config.min_images_per_class),
        Check("readable", f"at most {config.max_quarantined:.1%} of the files are unreadable", "share_quarantined",
              "critical", maximum=config.max_quarantined),
        Check("one label", "no image stands under two labels", "labels_of_content", "critical", maximum=1),
        Check("no leakage", "no image stands in two splits of the source", "splits_of_content", "warning", maximum=1),
        Check("no duplicates", "no file stands twice", "copies_of_content", "warning", maximum=1),
        Check("balance", f"the largest class is at most {config.max_imbalance:g} times any other", "times_smaller",
              "warning", maximum=config.max_imbalance),
        Check("side", f"sides are at least {config.min_side} pixels", "short_side", "warning",
              minimum=config.min_side, tolerated=some),
        Check("aspect", f"the longer side is at most {config.max_aspect:g} times the shorter", "aspect", "warning",
              maximum=config.max_aspect, tolerated=some),
        Check("brightness", f"mean brightness lies between {low:g} and {high:g}", "brightness", "warning",
              minimum=low, maximum=high, tolerated=some),
        Check("contrast", f"contrast is at least {config.min_contrast:g}", "contrast", "warning",
              minimum=config.min_contrast, tolerated=some),
    ]  # fmt: skip


def measured(manifest: pd.DataFrame, quarantine: pd.DataFrame) -> pd.DataFrame:
    """The manifest with a column for whatever a check compares across rows."""
    content = manifest.groupby("sha256")
    per_class = manifest.groupby("class")["path"].transform("size")
    sides = manifest[["width", "height"]]
    return manifest.assign(
        class_images=per_class,
        times_smaller=per_class.max() / per_class if len(manifest) else 0.0,
        share_quarantined=len(quarantine) / max(1, len(manifest) + len(quarantine)),
        labels_of_content=content["class"].transform("nunique"),
        splits_of_content=content["source_split"].transform("nunique"),
        copies_of_content=content["path"].transform("size"),
        short_side=sides.min(axis=1),
        aspect=sides.max(axis=1) / sides.min(axis=1),
    )


def validate(manifest: pd.DataFrame, quarantine: pd.DataFrame, config: Validate, docs: Path) -> list[Finding]:
    """Judge the manifest; Data Docs (HTML) are written to the folder `docs`. Look at `raise_critical` next."""
    if manifest.empty:
        raise ValueError("not one image could be read: quarantine.csv says why for each file")
    table = measured(manifest, quarantine)
    asked = checks(config)
    outcome = _run_suite(table, manifest.columns, asked, docs)
    return [_finding(check, table, quarantine, passed) for check, passed in zip(asked, outcome, strict=True)]


def raise_critical(findings: list[Finding]) -> None:
    """Raises ValueError with the first critical failure: the expectation, the count and the first paths."""
    failed = [finding for finding in findings if not finding.passed and finding.severity == "critical"]
    if failed:
        first = failed[0]
        others = f" (and {len(failed) - 1} more critical failures)" if len(failed) > 1 else ""
        raise ValueError(
            f"the data fail a critical expectation, {first.says!r}, at {first.count:,} of {first.of:,} images, first: "
            f"{', '.join(first.first)}{others}: mend the data, or the thresholds under `validate` in params.yaml"
        )


def as_report(findings: list[Finding]) -> dict[str, Any]:
    """validation.json"""
    return {
        "passed": all(finding.passed for finding in findings),
        "critical_failures": sum(not f.passed and f.severity == "critical" for f in findings),
        "warnings": sum(not f.passed and f.severity == "warning" for f in findings),
        "findings": [asdict(finding) for finding in findings],
    }


def _finding(check: Check, table: pd.DataFrame, quarantine: pd.DataFrame, passed: bool) -> Finding:
    if check.column == "share_quarantined":  # a column of the readable ones, about the others
        paths, of = quarantine["path"], len(table) + len(quarantine)
        first = paths.head(FIRST).tolist()
        return Finding(check.name, check.says, check.severity, passed, len(paths), of, first)
    values = table[check.column]
    outside = pd.Series(False, index=table.index)
    if check.minimum is not None:
        outside |= values < check.minimum
    if check.maximum is not None:
        outside |= values > check.maximum
    paths = table.loc[outside, "path"]
    return Finding(
        check.name, check.says, check.severity, passed, int(outside.sum()), len(table), paths.head(FIRST).tolist()
    )


def _run_suite(table: pd.DataFrame, columns: pd.Index, asked: list[Check], docs: Path) -> list[bool]:
    """Run the checks, and `not null` for every column of the manifest, in one suite; the checks' verdicts."""
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.expectations.core.expect_column_values_to_not_be_null import ExpectColumnValuesToNotBeNull
    from great_expectations.expectations.metadata_types import FailureSeverity

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    context.add_data_docs_site(
        "docs",
        {
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())},
        },
    )
    asset = context.data_sources.add_pandas("images").add_dataframe_asset("manifest")
    batch = asset.add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name="images"))
    expectations = [_expectation(check) for check in asked]
    for expectation in expectations:
        suite.add_expectation(expectation)
    for column in columns:
        suite.add_expectation(ExpectColumnValuesToNotBeNull(column=column, severity=FailureSeverity.CRITICAL))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name="manifest", data=batch, suite=suite))
    checkpoint = context.checkpoints.add(gx.Checkpoint(name="ingested", validation_definitions=[definition]))
    result = checkpoint.run(
        batch_parameters={"dataframe": table}, run_id=RunIdentifier(run_name="validate", run_time=RUN_TIME)
    )
    context.build_data_docs()
    (run,) = result.run_results.values()
    verdicts = {
        (r.expectation_config.type, r.expectation_config.kwargs["column"]): bool(r.success)
        for r in run.results
        if r.expectation_config is not None
    }
    nulls = [c for c in columns if not verdicts["expect_column_values_to_not_be_null", c]]
    if nulls:
        raise ValueError(f"the manifest has empty values in {', '.join(nulls)}: run `dvc repro --force ingest`")
    return [verdicts["expect_column_values_to_be_between", check.column] for check in asked]


def _expectation(check: Check) -> Expectation:
    from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween
    from great_expectations.expectations.metadata_types import FailureSeverity

    return ExpectColumnValuesToBeBetween(
        column=check.column,
        min_value=check.minimum,
        max_value=check.maximum,
        mostly=1 - check.tolerated,
        severity=FailureSeverity(check.severity),
        notes=check.says,
    )
