"""Draw the images of the bundled corpus `images`: `python -m pytest_maxact.demo.pictures OUTPUT_FOLDER`.

They are drawn for this project, from rectangles, discs, lines, letters of 5 x 7 pixels and seeded noise, in few colours each,
so that all of them together are smaller than one photograph. Writing them needs Pillow.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Colour: TypeAlias = tuple[int, int, int]

WHITE, BLACK, GREY = (250, 250, 246), (24, 24, 28), (150, 152, 156)
RED, GREEN, BLUE = (206, 52, 44), (44, 148, 72), (40, 92, 190)
YELLOW, ORANGE, BROWN = (244, 204, 60), (232, 132, 40), (122, 84, 52)
SKY, SEA, NIGHT = (168, 206, 236), (36, 96, 140), (20, 24, 56)

# Rows of each letter, five bits a row, the leftmost pixel first.
GLYPHS = {
    "A": "0E11111F111111", "B": "1E11111E11111E", "C": "0E11101010110E", "D": "1E11111111111E", "E": "1F10101E10101F",
    "F": "1F10101E101010", "G": "0E11101711110F", "H": "1111111F111111", "I": "0E04040404040E", "J": "0702020202120C",
    "K": "11121418141211", "L": "1010101010101F", "M": "111B1515111111", "N": "11111915131111", "O": "0E11111111110E",
    "P": "1E11111E101010", "Q": "0E11111115120D", "R": "1E11111E141211", "S": "0F10100E01011E", "T": "1F040404040404",
    "U": "1111111111110E", "V": "11111111110A04", "W": "1111111515150A", "X": "11110A040A1111", "Y": "11110A04040404",
    "Z": "1F01020408101F", "0": "0E11131519110E", "1": "040C040404040E", "2": "0E11010204081F", "3": "1F02040201110E",
    "4": "02060A121F0202", "5": "1F101E0101110E", "6": "0608101E11110E", "7": "1F010204080808", "8": "0E11110E11110E",
    "9": "0E11110F01020C", ".": "00000000000C0C", ":": "000C0C000C0C00", "-": "0000001F000000", "%": "18190204081303",
}  # fmt: skip


class Canvas:
    """An image [height, width, 3] of uint8, and ways to draw on it; x counts from the left, y from the top."""

    def __init__(self, width: int, height: int, colour: Colour = WHITE) -> None:
        self.pixels: NDArray[np.uint8] = np.full((height, width, 3), colour, dtype=np.uint8)
        self.y, self.x = np.mgrid[0:height, 0:width]

    def fill(self, where: NDArray[np.bool_], colour: Colour) -> None:
        """Colour the pixels where a mask [height, width] is true."""
        self.pixels[where] = colour

    def box(self, left: int, top: int, right: int, bottom: int, colour: Colour, edge: int = 0) -> None:
        """A rectangle; with an edge only its outline, so many pixels wide."""
        inside = (self.x >= left) & (self.x < right) & (self.y >= top) & (self.y < bottom)
        if edge:
            inside &= ~((self.x >= left + edge) & (self.x < right - edge) & (self.y >= top + edge) & (self.y < bottom - edge))
        self.fill(inside, colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour, hole: float = 0) -> None:
        """A disc, or a ring around a hole of that radius."""
        square = (self.x - x) ** 2 + (self.y - y) ** 2
        self.fill((square <= radius**2) & (square >= hole**2), colour)

    def line(self, *points: tuple[float, float], colour: Colour = BLACK, width: float = 2) -> None:
        """Segments from point to point."""
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            length = math.hypot(x1 - x0, y1 - y0)
            along = ((self.x - x0) * (x1 - x0) + (self.y - y0) * (y1 - y0)) / length
            across = ((self.x - x0) * (y1 - y0) - (self.y - y0) * (x1 - x0)) / length
            self.fill((along >= -0.5) & (along <= length + 0.5) & (abs(across) <= width / 2), colour)

    def triangle(self, corners: Sequence[tuple[float, float]], colour: Colour) -> None:
        """A filled triangle."""
        sides = []
        for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
            sides.append((self.x - x0) * (y1 - y0) - (self.y - y0) * (x1 - x0))
        self.fill(np.all(np.stack(sides) >= 0, axis=0) | np.all(np.stack(sides) <= 0, axis=0), colour)

    def write(self, x: int, y: int, text: str, colour: Colour = BLACK, scale: int = 1) -> None:
        """A line of capitals, figures and points."""
        for place, letter in enumerate(text):
            rows = bytes.fromhex(GLYPHS.get(letter, "00" * 7))
            for row, bits in enumerate(rows):
                for column in range(5):
                    if bits >> (4 - column) & 1:
                        left, top = x + (6 * place + column) * scale, y + row * scale
                        self.pixels[top : top + scale, left : left + scale] = colour


def noise(width: int, height: int, seed: int, step: int = 32) -> NDArray[np.float64]:
    """Smooth noise [height, width] from 0 to 1, of octaves that start at `step` pixels."""
    random, total = np.random.RandomState(seed), np.zeros((height, width))
    weight, weights = 1.0, 0.0
    while step >= 4:
        grid = random.rand(height // step + 2, width // step + 2)
        y, x = np.arange(height) / step, np.arange(width) / step
        top, left = y.astype(int), x.astype(int)
        down, right = (y - top)[:, None], (x - left)[None]
        rows = grid[top] * (1 - down) + grid[top + 1] * down
        total += weight * (rows[:, left] * (1 - right) + rows[:, left + 1] * right)
        weights, weight, step = weights + weight, weight / 2, step // 2
    return total / weights


def sunset() -> Canvas:
    """Hills before a low sun."""
    canvas = Canvas(192, 144)
    for band in range(12):
        canvas.box(0, band * 8, 192, band * 8 + 8, (250 - 2 * band, 120 + 9 * band, 60 + 6 * band))
    canvas.disc(130, 78, 18, YELLOW)
    for depth, colour in enumerate([(96, 80, 110), (66, 70, 84), (40, 54, 50)]):
        ridge = 84 + 16 * depth + 10 * np.sin(canvas.x / (17 + 6 * depth) + 2 * depth)
        canvas.fill(canvas.y > ridge, colour)
    return canvas


def skyline() -> Canvas:
    """A town at night; some windows are lit."""
    canvas, random = Canvas(224, 128, NIGHT), np.random.RandomState(3)
    canvas.disc(186, 24, 12, WHITE)
    canvas.disc(191, 21, 11, NIGHT)
    for left in range(0, 224, 28):
        top = int(random.randint(34, 84))
        canvas.box(left + 1, top, left + 27, 128, (44, 48, 66))
        for x in range(left + 5, left + 24, 7):
            for y in range(top + 5, 122, 10):
                canvas.box(x, y, x + 4, y + 5, YELLOW if random.rand() < 0.45 else BLACK)
    return canvas


def boat() -> Canvas:
    """A sailing boat on the sea."""
    canvas = Canvas(160, 160, SKY)
    canvas.fill(canvas.y > 104 + 3 * np.sin(canvas.x / 6), SEA)
    canvas.triangle([(82, 24), (82, 92), (124, 92)], WHITE)
    canvas.triangle([(76, 36), (76, 92), (46, 92)], RED)
    canvas.line((79, 18), (79, 98), colour=BROWN, width=3)
    canvas.triangle([(38, 98), (126, 98), (108, 120)], BROWN)
    canvas.triangle([(38, 98), (108, 120), (56, 120)], BROWN)
    return canvas


def bars() -> Canvas:
    """A bar chart of four quarters."""
    canvas = Canvas(200, 150)
    canvas.write(40, 6, "BREAD SOLD", scale=2)
    canvas.line((28, 26), (28, 126), (190, 126))
    for quarter, (height, colour) in enumerate([(44, BLUE), (62, BLUE), (88, RED), (30, BLUE)]):
        left = 40 + quarter * 38
        canvas.box(left, 126 - height, left + 24, 126, colour)
        canvas.write(left + 6, 134, f"Q{quarter + 1}")
        canvas.write(left + 6, 116 - height, str(height))
    return canvas


def curve() -> Canvas:
    """Two curves over twelve months."""
    canvas = Canvas(240, 140)
    for y in range(20, 121, 20):
        canvas.line((24, y), (232, y), colour=(216, 218, 222), width=1)
        canvas.write(4, y - 3, str(120 - y))
    warm = [(24 + 18 * month, 90 - 60 * math.sin(month / 11 * math.pi)) for month in range(12)]
    wet = [(24 + 18 * month, 60 + 30 * math.cos(month / 2.4)) for month in range(12)]
    canvas.line(*warm, colour=RED, width=3)
    canvas.line(*wet, colour=BLUE, width=3)
    canvas.write(24, 128, "JAN")
    canvas.write(206, 128, "DEC")
    return canvas


def pie() -> Canvas:
    """A pie of four shares."""
    canvas = Canvas(150, 150)
    angle = np.arctan2(canvas.y - 70, canvas.x - 75) / (2 * math.pi) % 1
    disc = (canvas.x - 75) ** 2 + (canvas.y - 70) ** 2 <= 58**2
    for start, end, colour in [(0, 0.45, GREEN), (0.45, 0.7, ORANGE), (0.7, 0.9, BLUE), (0.9, 1, GREY)]:
        canvas.fill(disc & (angle >= start) & (angle < end), colour)
    for x, y, share in [(84, 96, "45%"), (30, 66, "25%"), (70, 34, "20%"), (104, 58, "10%")]:
        canvas.write(x, y, share, WHITE)
    canvas.write(36, 136, "WOOD BY KIND")
    return canvas


def receipt() -> Canvas:
    """A receipt with a sum."""
    canvas = Canvas(140, 240)
    canvas.box(4, 4, 136, 236, GREY, edge=1)
    canvas.write(22, 14, "MILL CAFE", scale=2)
    for row, (what, price) in enumerate([("COFFEE", "2.80"), ("ROLL", "1.40"), ("SOUP", "5.60"), ("APPLE", "0.70")]):
        canvas.write(14, 50 + 18 * row, what)
        canvas.write(102, 50 + 18 * row, price)
    canvas.line((14, 126), (126, 126), width=1)
    canvas.write(14, 136, "TOTAL")
    canvas.write(70, 134, "10.50", scale=2)
    canvas.write(14, 166, "TABLE 7")
    for bar in range(36):
        canvas.box(16 + 3 * bar, 190, 16 + 3 * bar + 1 + (bar * bar % 7 % 2), 222, BLACK)
    return canvas


def sign() -> Canvas:
    """A signpost with two directions."""
    canvas = Canvas(200, 110, SKY)
    canvas.box(96, 10, 104, 110, BROWN)
    canvas.box(24, 18, 176, 46, GREEN)
    canvas.write(36, 25, "LAKE 3 KM", WHITE, scale=2)
    canvas.triangle([(176, 18), (176, 46), (194, 32)], GREEN)
    canvas.box(24, 58, 176, 86, YELLOW)
    canvas.write(36, 65, "STATION", BLACK, scale=2)
    canvas.triangle([(24, 58), (24, 86), (6, 72)], YELLOW)
    return canvas


def calendar() -> Canvas:
    """A month; one day is ringed."""
    canvas = Canvas(180, 160)
    canvas.box(0, 0, 180, 26, RED)
    canvas.write(56, 6, "MARCH", WHITE, scale=2)
    for day in range(1, 32):
        column, row = (day + 1) % 7, (day + 1) // 7
        canvas.write(12 + 24 * column, 38 + 24 * row, f"{day:2}", BLUE if column == 6 else BLACK)
    canvas.disc(65, 89, 11, RED, hole=9)
    return canvas


def flow() -> Canvas:
    """Three boxes joined by arrows."""
    canvas = Canvas(260, 90)
    for left, name, colour in [(8, "READ", BLUE), (96, "SORT", ORANGE), (184, "SHOW", GREEN)]:
        canvas.box(left, 24, left + 66, 62, colour, edge=3)
        canvas.write(left + 10, 36, name, scale=2)
    for left in (74, 162):
        canvas.line((left, 43), (left + 14, 43), width=3)
        canvas.triangle([(left + 12, 36), (left + 12, 50), (left + 21, 43)], BLACK)
    canvas.write(106, 74, "BY DATE", GREY)
    return canvas


def plan() -> Canvas:
    """A flat of three rooms, seen from above."""
    canvas = Canvas(200, 160)
    canvas.box(10, 10, 190, 150, BLACK, edge=5)
    canvas.box(110, 10, 115, 100, BLACK)
    canvas.box(110, 95, 190, 100, BLACK)
    for left, top, right, bottom in [(110, 40, 115, 62), (140, 95, 160, 100), (10, 104, 15, 132)]:
        canvas.box(left, top, right, bottom, WHITE)
    canvas.write(34, 70, "LIVING", BLUE)
    canvas.write(134, 48, "BED", BLUE)
    canvas.write(134, 120, "BATH", BLUE)
    return canvas


def geometry() -> Canvas:
    """A right triangle with the lengths of two sides."""
    canvas = Canvas(160, 140)
    canvas.line((30, 20), (30, 110), (140, 110), (30, 20), width=2)
    canvas.box(30, 98, 42, 110, BLACK, edge=1)
    canvas.write(12, 62, "3", scale=2)
    canvas.write(80, 118, "4", scale=2)
    canvas.write(92, 46, "X", RED, scale=2)
    return canvas


def checkers() -> Canvas:
    """A chessboard of which one field has the wrong colour."""
    canvas = Canvas(128, 128)
    canvas.fill((canvas.x // 16 + canvas.y // 16) % 2 == 1, BROWN)
    canvas.box(80, 32, 96, 48, RED)
    return canvas


def terrain() -> Canvas:
    """Heights in steps of colour, as on a map."""
    canvas, height = Canvas(160, 120, SEA), noise(160, 120, seed=11)
    steps = [(0.42, (222, 206, 150)), (0.47, (110, 168, 92)), (0.55, (70, 130, 72)), (0.62, BROWN), (0.68, WHITE)]
    for least, colour in steps:
        canvas.fill(height > least, colour)
    return canvas


def rings() -> Canvas:
    """Two sets of rings that overlap."""
    canvas = Canvas(144, 96, BLACK)
    one = np.hypot(canvas.x - 52, canvas.y - 48) // 5 % 2 == 0
    other = np.hypot(canvas.x - 92, canvas.y - 48) // 5 % 2 == 0
    canvas.fill(one ^ other, SKY)
    return canvas


def marbles() -> Canvas:
    """Nine marbles on a table."""
    canvas = Canvas(176, 132, (196, 172, 132))
    places = [(24, 30), (60, 22), (98, 40), (146, 28), (36, 72), (82, 84), (124, 76), (54, 112), (148, 112)]
    for number, (x, y) in enumerate(places):
        canvas.disc(x + 2, y + 3, 13, (150, 128, 96))
        canvas.disc(x, y, 13, [RED, BLUE, GREEN][number % 3 if number != 8 else 0])
        canvas.disc(x - 4, y - 4, 3, WHITE)
    return canvas


def shapes() -> Canvas:
    """A square, a disc and a triangle, one over another."""
    canvas = Canvas(160, 160)
    canvas.box(20, 20, 96, 96, BLUE)
    canvas.disc(98, 76, 40, YELLOW)
    canvas.triangle([(40, 144), (120, 144), (80, 70)], RED)
    return canvas


def face() -> Canvas:
    """A smiling face of 32 x 32 pixels."""
    canvas = Canvas(32, 32)
    canvas.disc(15.5, 15.5, 15, YELLOW)
    canvas.disc(10, 12, 2, BLACK)
    canvas.disc(21, 12, 2, BLACK)
    arc = np.hypot(canvas.x - 15.5, canvas.y - 14)
    canvas.fill((abs(arc - 9) < 1) & (canvas.y > 18), BLACK)
    return canvas


def ruler() -> Canvas:
    """A strip, twelve times as wide as high, with a mark at every tenth."""
    canvas = Canvas(384, 32, (236, 216, 160))
    for tick in range(0, 37):
        canvas.box(12 + 10 * tick, 0, 13 + 10 * tick, 14 if tick % 5 == 0 else 8, BLACK)
        if tick % 5 == 0:
            canvas.write(9 + 10 * tick, 18, str(tick))
    canvas.box(142, 0, 145, 16, RED)
    return canvas


DRAWN: tuple[Callable[[], Canvas], ...] = (
    *(sunset, skyline, boat, bars, curve, pie, receipt, sign, calendar, flow, plan, geometry),
    *(checkers, terrain, rings, marbles, shapes, face, ruler),
)


def main(folder: Path) -> None:
    """Write all of them as PNG files."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for draw in DRAWN:
        image = Image.fromarray(draw().pixels)
        colours = len(image.getcolors(1 << 16) or ())
        packed = (
            image.quantize(colours, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE) if colours <= 256 else image
        )
        exact = packed if np.array_equal(np.asarray(packed.convert("RGB")), np.asarray(image)) else image
        exact.save(folder / f"{draw.__name__}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
