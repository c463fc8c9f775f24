"""What the checks of the data found."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from pipeline.errors import UserError

FIRST = 5  # names that are given for a finding


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
