"""The order in which samples of several categories are taken, wherever fewer than all of them are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def in_proportion(categories: Sequence[str | None]) -> list[int]:
    """Indices in an order whose every beginning keeps the categories in proportion.

    The i-th of a category's n samples stands at (i + 1/2) / n of the way; of equals the first in the corpus comes first.
    """
    seen: Counter[str | None] = Counter()
    total = Counter(categories)
    places = []
    for index, category in enumerate(categories):
        places.append(((seen[category] + 0.5) / total[category], index))
        seen[category] += 1
    return [index for _, index in sorted(places)]
