"""Corpora that are made at first use instead of being stored: `diverse-5k` and `stress`.

Each is made by the generators of this folder from nothing but its name, so it is the same everywhere; `DIGESTS` are those of
the corpora (see `Corpus.digest`), and whoever makes one compares. A change of a generator or of the vocabulary is another
corpus: the baselines measured over it no longer compare, so it needs another name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pytest_maxact.generated.draw import Draw

DIGESTS = {
    "diverse-5k": "12428ea8c5d7f82a3ad8c2949bc2aa19186fd31954a1a1350c2ab3950a28cb9b",
    "stress": "6e5efea72aad0faeefd80178491ec9688644afc18bd68a1a9d45801a68c81349",
}


class Made(NamedTuple):
    """One sample: a text, or token ids that need the model's vocabulary."""

    id: str
    category: str
    content: str | Draw


def make(name: str) -> Iterator[Made]:
    """The samples of the corpus of this name, one of `DIGESTS`, in order."""
    if name == "stress":
        from pytest_maxact.generated.stress import stress

        return (Made(*sample) for sample in stress())
    from pytest_maxact.generated.diverse import diverse  # its vocabulary is read only where it is asked for

    return (Made(*sample) for sample in diverse())
