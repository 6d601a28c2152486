"""Token ids that can be drawn only where the model's vocabulary is known, and what they follow from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_maxact.generated.chance import Chance

Kind = Literal["uniform", "repeated"]


@dataclass(frozen=True)
class Draw:
    """An endless sequence of token ids by name, of which a sample takes the first `length`.

    `uniform` draws each token from the whole vocabulary, independently and with equal chances; `repeated` draws one and
    repeats it. A `length` of None is as long as the run allows. `vocabulary` is how many token ids there are, None where that
    is not known yet.
    """

    kind: Kind
    name: str
    length: int | None = None
    vocabulary: int | None = None

    def ids(self, max_length: int) -> tuple[int, ...]:
        """The token ids, at most `max_length`; the vocabulary must be known."""
        assert self.vocabulary is not None
        chance, length = Chance(self.name), max_length if self.length is None else min(self.length, max_length)
        if self.kind == "repeated":
            return (chance.below(self.vocabulary),) * length
        return tuple(chance.below(self.vocabulary) for _ in range(length))
