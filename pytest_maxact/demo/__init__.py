"""Two small checkpoints that ship with the package, and the script that trained them (`train.py`)."""

from pathlib import Path

DEMO_NAMES = ("demo", "demo-blowup")


def demo_folder(name: str) -> Path:
    """The folder of the demo checkpoint `name`, one of `DEMO_NAMES`."""
    return Path(__file__).resolve().parent / "checkpoints" / name
