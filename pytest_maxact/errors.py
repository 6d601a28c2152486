"""The errors a user may meet: each message is one line that says what was wrong, where, and what to type instead."""

from pytest_maxact.visible import visible

LONGEST = 2000  # characters of a message: what it quotes may be anybody's, and of any length


class MaxactError(Exception):
    """Base of every error this package raises on purpose: one `visible` line of about `LONGEST` characters at most."""

    def __str__(self) -> str:
        said = visible(" ".join(super().__str__().splitlines()))
        return said if len(said) <= LONGEST else f"{said[: LONGEST // 2]} … {said[-LONGEST // 2 :]}"


class SettingsError(MaxactError):
    """An option or ini value that cannot be used, or an output that cannot be written."""


class CheckpointError(MaxactError):
    """A checkpoint that cannot be found, is damaged, or is not safe to load."""


class CorpusError(MaxactError):
    """A corpus that cannot be found or read, or does not fit the model."""


class BaselineError(MaxactError):
    """A baseline that cannot be found, read or written."""


class AnatomyError(MaxactError):
    """A model in which the sites cannot be found with certainty."""


class MeasurementError(MaxactError):
    """A run that broke, or whose figures cannot be trusted."""


class AnalysisError(MaxactError):
    """Figures that an analysis cannot be made from."""


def first_line(cause: BaseException) -> str:
    """What an error says, cut to the start of its first line."""
    return shortened(visible(next(iter(str(cause).strip().splitlines()), type(cause).__name__)), 240)


def on_one_line(cause: BaseException) -> str:
    """What an error says, of several lines too, as the start of one."""
    return shortened(visible(" ".join(str(cause).split())) or type(cause).__name__, 240)


def shortened(said: str, length: int = 80) -> str:
    """The start of a text that may be of any length."""
    return said if len(said) <= length else f"{said[:length]}…"
