"""Samples that can be drawn only where the model's vocabulary is known, and what they follow from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pytest_maxact.generated.chance import Chance
from pytest_maxact.vocabulary import Vocabulary

Kind = Literal["uniform", "repeated", "each"]


@dataclass(frozen=True)
class Draw:
    """Token ids that follow from the vocabulary, a name, and a `length`; None is as long as the run allows.

    `uniform` draws each token from the whole vocabulary, independently and with equal chances; `repeated` draws one and
    repeats it. `each` is no single sample: it is every token of the vocabulary. Before them stands what the special-token
    policy puts before a text.
    """

    kind: Kind
    name: str
    length: int | None = None

    def samples(self, vocabulary: Vocabulary, max_length: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Id and token ids of each sample, at most `max_length` tokens."""
        if self.kind == "each":
            for token in vocabulary.ids:
                yield f"{self.name}-{token}", (*vocabulary.prefix, token)
            return
        chance, ids, room = Chance(self.name), vocabulary.ids, max_length - len(vocabulary.prefix)
        length = room if self.length is None else min(self.length, room)
        if self.kind == "repeated":
            drawn = (ids[chance.below(len(ids))],) * length
        else:
            drawn = tuple(ids[chance.below(len(ids))] for _ in range(length))
        yield self.name, (*vocabulary.prefix, *drawn)
