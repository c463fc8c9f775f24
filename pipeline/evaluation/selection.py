"""Which of several networks is the best: decided here for seeds, the audit, the report and the registry."""

from collections.abc import Mapping
from typing import TypeVar

Key = TypeVar("Key")


def best_by_validation(accuracies: Mapping[Key, float]) -> Key:
    """The key of the highest accuracy on the validation split; of equal ones the first."""
    return max(accuracies, key=accuracies.__getitem__)
