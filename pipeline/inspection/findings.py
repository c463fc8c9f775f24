"""What the checks of the data found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.errors import UserError

FIRST = 5  # names that are given for a finding


@dataclass(frozen=True)
class Finding:
    """The outcome of a check: `count` images of `of` are outside, `first` names some of them, `rows` are all of them
    in the manifest (none where the check is about something else than images that could be read)."""

    check: str
    says: str
    severity: str
    passed: bool
    count: int
    of: int
    first: list[str]
    rows: list[int] = field(default_factory=list)


def report(findings: list[Finding]) -> dict[str, Any]:
    """validation.json"""
    failed = [finding for finding in findings if not finding.passed]
    return {
        "passed": not failed,
        "critical_failures": sum(finding.severity == "critical" for finding in failed),
        "warnings": sum(finding.severity == "warning" for finding in failed),
        "findings": [{k: v for k, v in asdict(finding).items() if k != "rows"} for finding in findings],
    }


def raise_critical(findings: list[Finding]) -> None:
    """Raises UserError with the first critical failure: the expectation, the count and the first paths."""
    failed = [finding for finding in findings if not finding.passed and finding.severity == "critical"]
    if failed:
        first = failed[0]
        others = f" (and {len(failed) - 1} more critical failures)" if len(failed) > 1 else ""
        raise UserError(
            f"the data fail a critical expectation, {first.says!r}, at {first.count:,} of {first.of:,}, first: "
            f"{', '.join(first.first)}{others}: mend the data, or the thresholds under `validate` in params.yaml"
        )
