"""The errors a user may meet: each message is one line that says what was wrong, where, and what to type instead."""

from pytest_maxact.visible import visible


class MaxactError(Exception):
    """Base of every error this package raises on purpose; as text it is one line, whatever is in the names that it quotes."""

    def __str__(self) -> str:
        return visible(super().__str__())


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
    """What an error says, cut to its first line."""
    return visible(next(iter(str(cause).strip().splitlines()), type(cause).__name__))


def on_one_line(cause: BaseException) -> str:
    """What an error says, of several lines too, as the start of one."""
    said = visible(" ".join(str(cause).split())) or type(cause).__name__
    return said if len(said) <= 240 else f"{said[:240]}…"
