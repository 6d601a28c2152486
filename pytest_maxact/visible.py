"""The one place where what strangers wrote is made fit to be shown."""

from __future__ import annotations


def visible(text: str) -> str:
    r"""Text on one line that does nothing to a terminal: all that is not printable is an escape such as `\x1b`.

    That is line ends, tabs, control characters (and with them escape sequences), bidirectional controls, characters of no
    width, lone surrogates and code points that mean nothing. Names and texts come from strangers, records keep them as they
    are, and whatever is shown goes through here: errors and verdicts where they become text, the summary where its lines are
    made, and what else is told (header, progress, JUnit properties, outcomes of a task) where it is handed to pytest.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
