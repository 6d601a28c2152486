"""The Hub: what it has under a name, a copy of it in the Hub's own cache, and why it could not be had, in one line.

Environment variables (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE and the like) are read by huggingface_hub itself.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from threading import Thread
from typing import Literal, TypeVar

from pytest_maxact.errors import first_line

HUB_ID = re.compile(r"(?P<repository>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")
PATIENCE = 2.0  # seconds for the Hub's first answer; who set HF_HUB_ETAG_TIMEOUT gets that

Kind = Literal["model", "dataset"]
T = TypeVar("T")


class HubError(Exception):
    """Why something could not be had from the Hub and what to do about it: the second half of a sentence."""


@dataclass(frozen=True)
class Snapshot:
    """One commit of a repository, with those of its files in `folder` that were asked for.

    `files` names all that the repository has. Where the Hub did not serve it, `failure` says why, and `folder` and `files`
    are what the cache has.
    """

    folder: Path
    files: frozenset[str]
    failure: HubError | None

    @property
    def commit(self) -> str:
        """The commit's full hash."""
        return self.folder.name


def snapshot(repository: str, revision: str | None, patterns: Sequence[str]) -> Snapshot:
    """Bring the small files of a model's repository, from the Hub where it answers in time, else from the cache.

    Args:
        repository: `org/name`.
        revision: branch, tag or commit; None for the default branch.
        patterns: which files to bring.

    Raises:
        HubError: where the Hub has no such repository or revision, or refuses it or is out of reach and the cache lacks it.

    """
    from huggingface_hub import HfApi, snapshot_download

    def bring(cached: bool) -> tuple[Path, frozenset[str]]:
        info = None
        if not cached:
            info = _in_time(lambda timeout: HfApi().model_info(repository, revision=revision, timeout=timeout))
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns), local_files_only=cached))
        files = [file.rfilename for file in info.siblings or ()] if info else [file.name for file in folder.iterdir()]
        return folder, frozenset(files)

    (folder, files), failure = _from_hub_or_cache(bring, repository, revision, "model")
    return Snapshot(folder, files, failure)


def dataset_commit(repository: str, revision: str | None) -> tuple[str, HubError | None]:
    """The commit of a data set, and why the Hub did not tell it where the cache had to.

    Raises:
        HubError: as for `snapshot`.

    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    # The file that every repository begins with: beside it, the cache notes which commit a branch or tag meant.
    mark = partial(hf_hub_download, repository, ".gitattributes", repo_type="dataset", revision=revision)

    def bring(cached: bool) -> str:
        if cached:
            return Path(mark(local_files_only=True)).parent.name
        # Without the list of its files, which can be very long.
        ask = partial(HfApi().dataset_info, repository, revision=revision, expand=["sha"])
        info = _in_time(lambda timeout: ask(timeout=timeout))
        with contextlib.suppress(RemoteEntryNotFoundError):
            mark()
        return str(info.sha)

    return _from_hub_or_cache(bring, repository, revision, "dataset")


def fetch(repository: str, commit: str, files: Sequence[str]) -> Path:
    """Download files of one commit; the folder they are in.

    Raises:
        HubError: where that fails.

    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=commit, allow_patterns=list(files)))
    except Exception as cause:  # the Hub's client, and the HTTP library below it, raise whatever happens to them
        raise HubError(_reason(cause, repository, commit, "model")) from None


def _from_hub_or_cache(
    bring: Callable[[bool], T], repository: str, revision: str | None, kind: Kind
) -> tuple[T, HubError | None]:
    """What `bring` gives with the Hub or, where that fails, from the cache alone; and then why it failed."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        with _no_bars():
            return bring(False), None
    except Exception as cause:  # as in fetch
        failure = HubError(_reason(cause, repository, revision, kind))
        if isinstance(cause, RevisionNotFoundError):  # the Hub knows better than an old copy
            raise failure from None
    try:
        return bring(True), failure
    except Exception:  # not there, or not whole
        raise failure from None


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """No progress bars for small files: a failure is to be one line."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            enable_progress_bars()


def _patience() -> float:
    from huggingface_hub import constants

    return constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else PATIENCE


def _in_time(ask: Callable[[float], T]) -> T:
    """An answer of the Hub, or a timeout: its client's own counts each step anew, and name resolution not at all."""
    future: futures.Future[T] = futures.Future()

    def work() -> None:
        try:
            future.set_result(ask(2 * _patience()))  # ends the thread some time after all have left
        except Exception as cause:
            future.set_exception(cause)

    Thread(target=work, daemon=True).start()
    return future.result(timeout=_patience())


def _reason(cause: Exception, repository: str, revision: str | None, kind: Kind) -> str:
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(cause, LocalEntryNotFoundError) and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__  # why the Hub did not give it says more than that the cache lacks it, too
    hub = f"the Hub ({constants.ENDPOINT})"
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    log_in = "set HF_TOKEN or run `hf auth login`"
    elsewhere = f"the cache {constants.HF_HUB_CACHE} does not hold all of it"
    check = "check the spelling, the network and HF_ENDPOINT"
    shown = f"{type(cause).__name__}: {first_line(cause)}"
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    match cause:
        case HFValidationError():
            return "it is no id that the Hub could have: check the spelling"
        case OfflineModeIsEnabled():
            return f"HF_HUB_OFFLINE is set and {elsewhere}: check the spelling, or unset HF_HUB_OFFLINE"
        case RevisionNotFoundError():
            return f"{hub} has no revision {revision} of it: name a branch, tag or commit that {page} shows"
        case GatedRepoError():  # before the next one, of which it is a kind
            return f"{hub} gives it only to those who were granted access: ask for it at {page}, then {log_in}"
        case HfHubHTTPError() if status == HTTPStatus.UNAUTHORIZED and get_token():
            return f"{hub} refused the token (401): set HF_TOKEN to a valid one or run `hf auth login`"
        case HfHubHTTPError() if status == HTTPStatus.UNAUTHORIZED or isinstance(cause, RepositoryNotFoundError):
            return f"{hub} has none of this name, or a private one: check the spelling; for a private one, {log_in}"
        case HfHubHTTPError():
            passing = status is not None and (status >= 500 or status == HTTPStatus.TOO_MANY_REQUESTS)
            advice = "try again later" if passing else "check HF_ENDPOINT and what the token may read"
            return f"{hub} answered {status} {cause.response.reason_phrase}: {advice}"
        case futures.TimeoutError():
            waiting = f"{hub} did not answer within {_patience():g} s"
            return f"{waiting} and {elsewhere}: {check}; HF_HUB_ETAG_TIMEOUT=30 waits longer"
        case OSError() if cause.errno and not isinstance(cause, ConnectionError):
            return f"it could not be stored in the cache {constants.HF_HUB_CACHE} ({shown}): make room there, or set HF_HOME"
        case _:
            return f"{hub} cannot be reached ({shown}) and {elsewhere}: {check}"
