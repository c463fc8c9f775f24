"""What is asked of the data, judged by Great Expectations (a suite a table, Data Docs of all), and what was found."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import inf, isfinite
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween
from great_expectations.expectations.metadata_types import FailureSeverity

from pipeline.errors import UserError

FIRST = 5  # names that are given for a finding
# Data Docs file their pages under the time of the run; a fixed one keeps DVC's outputs comparable
RUN_ID = RunIdentifier(run_name="validate", run_time=datetime(2000, 1, 1, tzinfo=UTC))


@dataclass(frozen=True)
class Bounds:
    """What is asked of the column `name`: a sentence, both bounds, and the share of rows that may lie outside."""

    name: str
    says: str
    minimum: float = -inf
    maximum: float = inf
    tolerated: float = 0.0


@dataclass(frozen=True)
class Finding:
    """The outcome of a check: `count` of `of` are outside, `first` names some, `rows` are all in the manifest."""

    check: str
    says: str
    severity: str
    passed: bool
    count: int
    of: int
    first: list[str]
    rows: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        named = ", ".join(self.first) + (", ..." if self.count > len(self.first) else "")
        return f"{self.check}: {self.count:,} of {self.of:,} ({named}); wanted: {self.says}"


@dataclass(frozen=True)
class Validation:
    """`images` is the manifest with what was compared across rows; `pairs` are copies and near-duplicates."""

    findings: list[Finding]
    images: pd.DataFrame
    pairs: pd.DataFrame

    def report(self) -> dict[str, Any]:
        """validation.json"""
        failed = [finding.severity for finding in self.findings if not finding.passed]
        return {
            "passed": not failed,
            "critical_failures": failed.count("critical"),
            "warnings": failed.count("warning"),
            "findings": [{k: v for k, v in asdict(finding).items() if k != "rows"} for finding in self.findings],
        }

    def conclude(self) -> None:
        """Prints a line for each check that failed. Raises UserError with the first of them that is critical."""
        failed = sorted((finding for finding in self.findings if not finding.passed), key=lambda found: found.severity)
        for finding in failed:
            print(f"{finding.severity}: {finding}", file=sys.stderr)
        if failed and failed[0].severity == "critical":
            raise UserError(f"the data fail a critical check, {failed[0]}: fix them, or `validate` in params.yaml")


def judge(tables: dict[str, tuple[pd.DataFrame, list[Bounds]]], critical: Sequence[str], docs: Path) -> dict[str, bool]:
    """Whether each of the bounds holds, by its name. `docs` is the folder that Data Docs are written to."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    site = {"class_name": "SiteBuilder", "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"}}
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())}
    context.add_data_docs_site("docs", {**site, "store_backend": store})  # type: ignore[typeddict-item]  # a dict is taken
    verdicts: dict[str, bool] = {}
    for name, (table, bounds) in tables.items():
        suite = context.suites.add(gx.ExpectationSuite(name=name))
        for bound in bounds:
            low, high = (value if isfinite(value) else None for value in (bound.minimum, bound.maximum))
            asked: Any = {"min_value": low, "max_value": high, "mostly": 1 - bound.tolerated, "notes": bound.says}
            severity = FailureSeverity("critical" if bound.name in critical else "warning")
            suite.add_expectation(ExpectColumnValuesToBeBetween(column=bound.name, severity=severity, **asked))
        asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
        batch = asset.add_batch_definition_whole_dataframe("all")
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        checkpoint = context.checkpoints.add(gx.Checkpoint(name=name, validation_definitions=[definition]))
        (run,) = checkpoint.run(batch_parameters={"dataframe": table}, run_id=RUN_ID).run_results.values()
        for outcome in run.results:
            assert outcome.expectation_config is not None
            verdicts[outcome.expectation_config.kwargs["column"]] = bool(outcome.success)
    context.build_data_docs()
    return verdicts
