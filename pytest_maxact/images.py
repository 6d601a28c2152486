"""Image files of a corpus: found beside its JSON Lines file and checked when it is loaded, read when a model needs them.

Only a corpus with images needs Pillow.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pytest_maxact.errors import CorpusError, first_line, shortened
from pytest_maxact.files import read

FORMATS = ("PNG", "JPEG")
MAX_IMAGE = 512 << 20  # bytes: a PNG of all the pixels that Pillow opens, 89 million, with nothing gained by packing


@dataclass(frozen=True)
class ImageFile:
    """A file that holds an image: `digest` is the sha256 of its bytes, `size` its width and height in pixels."""

    path: Path
    digest: str
    size: tuple[int, int]

    def read(self) -> Any:
        """The image as Pillow holds it: upright, RGB, without transparency.

        Raises:
            CorpusError: where the file is not what it was when the corpus was loaded.

        """
        from PIL import ImageOps

        content = _content(self.path, f"image {self.path}")
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise CorpusError(f"image {self.path} was changed after its corpus was loaded: start again when it is whole")
        return ImageOps.exif_transpose(_opened(content)).convert("RGB")


def image_file(folder: Path, name: object, place: str) -> ImageFile:
    """The image that a row names, decoded once to see that it is whole.

    Args:
        folder: where the corpus file is.
        name: a path below that folder, written with `/`.
        place: the row, for errors.

    Raises:
        CorpusError: where the name is no such path, the file is missing or no whole PNG or JPEG, or Pillow is missing.

    """
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name or not _below(name):
        raise CorpusError(
            f'{place}: "images" holds {shortened(repr(name))}, and must hold paths of files below {folder.absolute()}, such as '
            '"images/a.png"'
        )
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise CorpusError(f"{place} has images, which need the library Pillow: `pip install pillow`") from None
    path = folder / name
    content = _content(path, f"{place}: image {name}")
    try:
        image = _opened(content)
        size = image.size
        image.draft("RGB", (1, 1))  # a JPEG is decoded at an eighth of its size, which shows as well that it is whole
        image.load()
    except Exception as cause:  # Pillow raises whatever a damaged file makes it raise
        reason = first_line(cause).partition(" <")[0][:200]
        raise CorpusError(
            f"{place}: image {name} ({path.absolute()}) is no whole PNG or JPEG file ({reason}): copy it again"
        ) from None
    return ImageFile(path, hashlib.sha256(content).hexdigest(), size)


def _below(name: str) -> bool:
    path = PurePosixPath(name)
    anchored = path.is_absolute() or PureWindowsPath(name).drive
    return not anchored and ".." not in path.parts and "://" not in name


def _content(path: Path, what: str) -> bytes:
    try:
        return read(path, MAX_IMAGE)
    except OSError as cause:
        raise CorpusError(f"{what} cannot be read (looked at {path.absolute()}): {cause.strerror}") from None


def _opened(content: bytes) -> Any:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(BytesIO(content), formats=FORMATS)
