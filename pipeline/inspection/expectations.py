"""Tables judged by Great Expectations: one suite a table, Data Docs (HTML) of all of them.

Source of the terms: https://docs.greatexpectations.io (expectations, severity, Data Docs).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.errors import UserError

if TYPE_CHECKING:
    from great_expectations import ValidationDefinition
    from great_expectations.data_context.data_context.ephemeral_data_context import EphemeralDataContext
    from great_expectations.expectations.expectation import Expectation

# Data Docs file their pages under the time of the run; a fixed one keeps DVC's outputs comparable
RUN_TIME = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Bounds:
    """One expectation on one column: name, sentence for people, bounds, and the share of rows that may miss them."""

    name: str
    says: str
    column: str
    severity: str
    minimum: float | None = None
    maximum: float | None = None
    tolerated: float = 0.0

    def missed_by(self, table: pd.DataFrame) -> pd.Series:
        """True where a row lies outside."""
        values = table[self.column]
        outside = pd.Series(False, index=table.index)
        if self.minimum is not None:
            outside |= values < self.minimum
        if self.maximum is not None:
            outside |= values > self.maximum
        return outside


def judge(tables: dict[str, tuple[pd.DataFrame, list[Bounds]]], not_null: list[str], docs: Path) -> dict[str, bool]:
    """The verdict on each expectation, by its name; `not_null` are columns of the first table that must be full.

    Raises UserError where they are not.
    """
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import ProgressBarsConfig

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
    full = not_null
    verdicts: dict[str, bool] = {}
    for name, (table, bounds) in tables.items():
        suite = [_between(bound) for bound in bounds] + [_not_null(column) for column in full]
        definition = _definition(context, name, suite)
        checkpoint = context.checkpoints.add(gx.Checkpoint(name=name, validation_definitions=[definition]))
        result = checkpoint.run(
            batch_parameters={"dataframe": table}, run_id=RunIdentifier(run_name="validate", run_time=RUN_TIME)
        )
        (run,) = result.run_results.values()
        for outcome in run.results:
            assert outcome.expectation_config is not None and outcome.expectation_config.meta is not None
            verdicts[outcome.expectation_config.meta["name"]] = bool(outcome.success)
        full = []
    context.build_data_docs()
    empty = [column for column in not_null if not verdicts.pop(f"{column} is there")]
    if empty:
        raise UserError(f"the manifest has empty values in {', '.join(empty)}: run `dvc repro --force ingest`")
    return verdicts


def _definition(context: EphemeralDataContext, name: str, suite: list[Expectation]) -> ValidationDefinition:
    import great_expectations as gx

    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe("all")
    expectations = context.suites.add(gx.ExpectationSuite(name=name))
    for expectation in suite:
        expectations.add_expectation(expectation)
    return context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=expectations))


def _between(bound: Bounds) -> Expectation:
    from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween
    from great_expectations.expectations.metadata_types import FailureSeverity

    return ExpectColumnValuesToBeBetween(
        column=bound.column,
        min_value=bound.minimum,
        max_value=bound.maximum,
        mostly=1 - bound.tolerated,
        severity=FailureSeverity(bound.severity),
        notes=bound.says,
        meta={"name": bound.name},
    )


def _not_null(column: str) -> Expectation:
    from great_expectations.expectations.core.expect_column_values_to_not_be_null import ExpectColumnValuesToNotBeNull
    from great_expectations.expectations.metadata_types import FailureSeverity

    return ExpectColumnValuesToNotBeNull(
        column=column, severity=FailureSeverity.CRITICAL, meta={"name": f"{column} is there"}
    )
