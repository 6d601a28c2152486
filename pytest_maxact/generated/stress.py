"""The corpus `stress`: what nobody would write to be read, and a model may meet all the same.

Random and repeated tokens are drawn from the model's own vocabulary (see `draw`); the other samples are texts. Each family has
short samples and one or two long ones: 131,072 characters, or tokens as many as a sample of the run may have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pytest_maxact.generated.chance import Chance
from pytest_maxact.generated.draw import Draw, Kind
from pytest_maxact.generated.languages import LATIN, SCRIPTS
from pytest_maxact.generated.marks import EMOJI, SIGNS

SAMPLES_OF_A_FAMILY = 16
LONG_CHARACTERS = 131_072
DELIMITERS = tuple(
    "\n \n\n , ; : . ... ' \" ` ``` ( ) [ ] { } < > / \\ - --- _ = === * ** # ### @ $ % ^ & && | || ~ ! ? <!-- -->".split(" ")
)
SPACES = tuple(" |  |        |\t|\t\t|\n|\n\n|\r\n|\u00a0|\u2003|\u3000|\u200b|\u2028|\n    | \n".split("|"))
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PARTS = tuple(
    "anti pseudo hyper micro electro photo thermo neuro cardio gastro poly mono counter inter trans super ultra "
    "meta proto graph log morph phil phob metr scop derm cyt gen lys stat ment ation ness less ful ship hood ward "
    "wise".split()
)
DRAWN: dict[Kind, tuple[int | None, ...]] = {
    "uniform": (1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256, 256, 512, 512, None, None),
    "repeated": (2, 4, 8, 16, 32, 32, 64, 64, 64, 64, 128, 128, 256, 512, None, None),
}


def stress() -> Iterator[tuple[str, str, str | Draw]]:
    """The samples: id, category, and a text or what is to be drawn."""
    for kind, lengths in DRAWN.items():
        for number, length in enumerate(lengths, start=1):
            name = f"stress-{kind}-{number:02d}"
            yield name, kind, Draw(kind, name, length)
    for category, piece in TEXTS.items():
        for number in range(1, SAMPLES_OF_A_FAMILY + 1):
            name = f"stress-{category}-{number:02d}"
            length = LONG_CHARACTERS if number == SAMPLES_OF_A_FAMILY else 8 * 2 ** (number // 2)
            yield name, category, _text(Chance(name), piece, length)


def _text(chance: Chance, piece: Callable[[Chance], str], length: int) -> str:
    """So many characters; about half of the texts repeat a few pieces, the others make new ones."""
    few = [piece(chance) for _ in range(chance.between(1, 3))] if chance.odds(50) else []
    pieces, written = [], 0
    while written < length:
        pieces.append(chance.pick(few) if few else piece(chance))
        written += len(pieces[-1])
    return "".join(pieces)[: length - 1] + "x"  # of whitespace alone some tokenizers make no tokens


def _delimiters(chance: Chance) -> str:
    return chance.pick(DELIMITERS) * chance.between(1, 12)


def _whitespace(chance: Chance) -> str:
    return chance.pick(SPACES) * chance.between(1, 12)


def _numbers(chance: Chance) -> str:
    digits = str(chance.bits(4 * chance.between(1, 100)))
    return digits + chance.pick(("", "", ".", ",", "e+", "-", "0" * 40, "9" * 40, "/"))


def _words(chance: Chance) -> str:
    if chance.odds(30):
        return "".join(chance.pick(LETTERS) for _ in range(chance.between(5, 200)))
    return "".join(chance.pick(PARTS) for _ in range(chance.between(3, 60)))


def _scripts(chance: Chance) -> str:
    pick = chance.below(6)
    if pick == 0:
        return chance.pick(EMOJI + SIGNS)
    if pick == 1:
        return chr(chance.between(0x21, 0xFF)) + chr(chance.between(0x1000, 0xD7FF))  # assigned or not, but no surrogate
    if pick == 2:
        return "e" + "".join(chr(chance.between(0x300, 0x36F)) for _ in range(chance.between(1, 12)))
    return chance.pick(chance.pick(LATIN + SCRIPTS).predicates).split(" ")[0]


TEXTS = {
    "delimiters": _delimiters,
    "whitespace": _whitespace,
    "numbers": _numbers,
    "words": _words,
    "scripts": _scripts,
}
