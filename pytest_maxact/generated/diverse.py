"""The corpus `diverse-5k`: 250 samples of each of 20 families, of 1 to 2,048 tokens, that begin as differently as they can.

In a causal model what happens at position 0 depends on the first token alone, and massive activations like to stand there. So
a sample begins somewhere inside of what its family writes, where an opening is found that no sample before had; of families
that must begin with a whole piece, as Python, pieces that open as others do are mostly left out.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pytest_maxact.generated import code, data, english, languages, marks
from pytest_maxact.generated.chance import Chance
from pytest_maxact.generated.mathematics import mathematics
from pytest_maxact.resources import data_folder

# How many of a family's 250 samples have about 2**k to 2**(k+1) - 1 tokens, k from 0; LONGEST keeps all below 2,048.
OCTAVES = (18, 24, 26, 29, 29, 29, 29, 26, 20, 13, 7)
LONGEST = 1_900
OPENING = re.compile(r"\s*(?:[A-Za-z]+|\d|[^A-Za-z\d]{1,2})")
WORD = re.compile(r"( ?)\b\w")  # may open a sample with the space before it or without: two tokens to most tokenizers
SLACK_BYTES = 240

Pieces = Callable[[Chance, int], Iterator[str]]


@dataclass(frozen=True)
class Family:
    """Texts of one category.

    `pieces` gives, for a size in bytes, what a sample is joined from; `bytes_a_token` is a low estimate over tokenizers, so
    that lengths in tokens come out about as planned and never beyond it by much. `cut` says where a sample may begin and end:
    at any word, at any character, only where a piece does, or nowhere: then one piece is the sample.
    """

    name: str
    pieces: Pieces
    bytes_a_token: float
    cut: Literal["words", "characters", "pieces", "nowhere"] = "words"


def _each(make: Callable[[Chance], str]) -> Pieces:
    """Pieces that do not depend on each other."""

    def pieces(chance: Chance, size: int) -> Iterator[str]:
        while True:
            yield make(chance)

    return pieces


@cache
def _core() -> list[str]:
    lines = (data_folder("corpora") / "core.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line)["text"] for line in lines if line]


def _excerpts(chance: Chance, size: int) -> Iterator[str]:
    """Texts of the corpus `core`, the first from somewhere inside."""
    texts = _core()
    text = chance.pick(texts)
    yield text[chance.below(len(text)) :] + "\n\n"
    while True:
        yield chance.pick(texts) + "\n\n"


FAMILIES = (
    Family("prose", english.prose, 4.3),
    Family("register", _each(english.register), 3.7),
    Family("dialogue", _each(english.dialogue), 3.4),
    Family("chat", _each(english.chat), 3.6),
    Family("lists", _each(english.lists), 3.0),
    Family("excerpts", _excerpts, 2.4, "characters"),
    Family("languages", languages.latin, 1.9),
    Family("scripts", languages.scripts, 1.3, "characters"),
    Family("python", code.python, 3.0, "pieces"),
    Family("code", code.program, 2.3),
    Family("mathematics", _each(mathematics), 1.8),
    Family("markup", _each(marks.markup), 2.9),
    Family("json", data.json_value, 2.1, "nowhere"),
    Family("tables", data.table, 1.2, "pieces"),
    Family("configuration", data.configuration, 2.2, "pieces"),
    Family("logs", data.log, 1.9),
    Family("numbers", _each(marks.numbers), 1.2),
    Family("identifiers", _each(marks.identifiers), 1.6),
    Family("noise", _each(marks.noise), 2.6),
    Family("symbols", _each(marks.symbols), 1.9, "characters"),
)


def diverse() -> Iterator[tuple[str, str, str]]:
    """The samples: id, category and text."""
    openings: dict[str, None] = {}
    texts: dict[str, None] = {}
    for family in FAMILIES:
        octaves = [octave for octave, count in enumerate(OCTAVES) for _ in range(count)]
        chance = Chance(f"diverse-5k/{family.name}")
        for number, octave in enumerate(chance.shuffled(octaves), start=1):
            name = f"diverse-{family.name}-{number:03d}"
            tokens = chance.between(2**octave, min(2 ** (octave + 1) - 1, LONGEST))
            text = _text(family, name, int(tokens * family.bytes_a_token), openings, texts)
            openings[_opening(text)] = texts[text] = None
            yield name, family.name, text


def _text(family: Family, name: str, size: int, openings: dict[str, None], texts: dict[str, None]) -> str:
    """A text that no sample has yet."""
    attempts = (_attempt(family, Chance(f"{name}/{attempt}"), max(size, 1), openings) for attempt in itertools.count())
    return next(text for text in attempts if text and text not in texts)


def _attempt(family: Family, chance: Chance, size: int, openings: dict[str, None]) -> str:
    window = family.cut in ("words", "characters")
    wanted, written = size + SLACK_BYTES * window, 0
    pieces: list[str] = []
    for piece in family.pieces(chance, size):
        if family.cut == "pieces" and not pieces and _opening(piece) in openings and chance.odds(85):
            continue  # another piece may open as no sample does
        pieces.append(piece)
        written += len(piece.encode())
        if written >= wanted:
            break
    text = "".join(pieces)
    return (_window(text, size, family.cut == "characters", chance, openings) if window else text).rstrip()


def _window(text: str, size: int, anywhere: bool, chance: Chance, openings: dict[str, None]) -> str:
    """About `size` bytes of the text, from where it opens as no other does."""
    latest = max(len(text) // 2 if len(text) < 2 * SLACK_BYTES else SLACK_BYTES, 1)
    starts = range(latest) if anywhere else [0, *(place for word in WORD.finditer(text, 0, latest) for place in word.span(1))]
    start = next((start for start in (chance.pick(starts) for _ in range(30)) if _opening(text, start) not in openings), 0)
    end = start + max(1, size * len(text) // len(text.encode()))
    if not anywhere:
        end = next((found.start() for found in re.finditer(r"(?<=\w)\b", text[end - 1 :])), 0) + end - 1
    return text[start : max(end, start + 1)]


def _opening(text: str, start: int = 0) -> str:
    found = OPENING.match(text, start)
    return "" if found is None else found.group()
