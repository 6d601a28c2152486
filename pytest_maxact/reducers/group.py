"""Sites that share dtype, device and kind of figures, reduced together: a few large operations instead of many small ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch

from pytest_maxact.histogram import Floats, Histogram, Moments
from pytest_maxact.record import Modality, Site, SunFigures
from pytest_maxact.reducers.encoding import Encoding
from pytest_maxact.reducers.faults import Faults
from pytest_maxact.reducers.peak import PeakAt, Peaks
from pytest_maxact.reducers.rows import TOP, UNTRACED, Rows, Totals
from pytest_maxact.reducers.samples import SamplePeaks
from pytest_maxact.reducers.sun import Sun
from pytest_maxact.reducers.wide import WideState

MODALITIES: tuple[Modality, ...] = get_args(Modality)


@dataclass(frozen=True)
class SiteResult:
    """Everything a run learned about one site. `high` and `low` are None where no value was finite, `fault` where all were."""

    histogram: Histogram
    high: float | None
    low: float | None
    nan: int
    inf: int
    peak: PeakAt | None
    fault: PeakAt | None
    moments: Moments
    top: list[float]
    sun: SunFigures | None


@dataclass(frozen=True)
class GroupState:
    """What the reducers of a group hold; `modalities` are peaks in the order of `MODALITIES`, or empty."""

    totals: Totals
    peaks: Peaks
    faults: Faults
    sun: Sun | None
    wide: WideState | None
    modalities: tuple[Peaks, ...]
    samples: SamplePeaks

    def merge(self, other: GroupState) -> GroupState:
        """The state of both streams together."""
        return GroupState(
            totals=self.totals.merge(other.totals),
            peaks=self.peaks.merge(other.peaks),
            faults=self.faults.merge(other.faults),
            sun=None if self.sun is None or other.sun is None else self.sun.merge(other.sun),
            wide=None if self.wide is None or other.wide is None else self.wide.merge(other.wide),
            modalities=tuple(mine.merge(theirs) for mine, theirs in zip(self.modalities, other.modalities, strict=True)),
            samples=self.samples.merge(other.samples),
        )


class SiteGroup:
    """The running figures of some sites.

    `begin` a batch and `take` it when it is through. Meanwhile let a kernel fill `views` where each token is one row of a
    site, once; any other site has a group of its own, of which a kernel fills what `part` gives at each call. With
    `modalities` the peaks of tokens of text and of those that stand for images are kept apart, too.
    """

    def __init__(
        self,
        encoding: Encoding,
        sites: Sequence[Site],
        device: torch.device,
        *,
        samples: int,
        judged_by_sun: bool,
        modalities: bool = False,
    ) -> None:
        self.encoding = encoding
        self.sites = list(sites)
        self.device = device
        self._hidden = [index for index, site in enumerate(sites) if site.component == "hidden"]
        self._hidden_rows = torch.tensor(self._hidden, dtype=torch.int64, device=device)
        self._routers = torch.tensor([site.component == "router" for site in sites], device=device)
        self._part_of_m = torch.tensor([site.part_of_m for site in sites], device=device)
        self.state = GroupState(
            totals=Totals.zeros(encoding, len(sites), device),
            peaks=Peaks.zeros(len(sites), device),
            faults=Faults.zeros(len(sites), device),
            sun=Sun.zeros(len(sites), device) if judged_by_sun else None,
            wide=None if encoding.exact else WideState.zeros(len(sites), device),
            modalities=(Peaks.zeros(len(sites), device),) * (len(MODALITIES) if modalities else 0),
            samples=SamplePeaks.zeros(len(self._hidden), samples, device),
        )
        self._parts: list[Rows] = []

    def begin(self, real: torch.Tensor, place: torch.Tensor, image: torch.Tensor | None = None) -> None:
        """Make room for a batch whose tokens are `real`, stand at `place`, and maybe for an image (see `Rows`)."""
        self._parts = []
        self.rows = self._room(real, place, image)
        self.views = [self.rows[site] for site in range(len(self.sites))]

    def take(self, samples: torch.Tensor) -> None:
        """Reduce the batch that kernels have filled in; `samples` are the sample indices of its B rows."""
        rows = Rows.joined(self._parts) if self._parts else self.rows
        state = self.state
        apart = zip(MODALITIES, state.modalities, strict=False)  # none without images
        self.state = replace(
            state,
            peaks=state.peaks.update(rows),
            faults=state.faults.update(rows, self._routers),
            sun=None if state.sun is None else state.sun.update(rows),
            wide=None if state.wide is None else state.wide.update(rows),
            modalities=tuple(peaks.update(_only(rows, modality)) for modality, peaks in apart),
        )
        if self._parts:
            state.samples.update_traced(rows, self._hidden_rows, self._part_of_m)
        else:
            state.samples.update(rows, samples.to(self.device), self._hidden_rows, self._part_of_m)

    def part(self, real: torch.Tensor, place: torch.Tensor, image: torch.Tensor | None = None) -> Rows:
        """Room for one call's rows, of the group's only site."""
        self._parts.append(self._room(real, place, image))
        return self._parts[-1][0]

    def _room(self, real: torch.Tensor, place: torch.Tensor, image: torch.Tensor | None) -> Rows:
        return Rows.empty(
            self.encoding,
            real.to(self.device),
            place.to(self.device),
            self.state.totals,
            median=self.state.sun is not None,
            image=None if image is None else image.to(self.device),
        )

    def finish(self) -> list[SiteResult]:
        """The results, in the order of `sites`; the first time that anything leaves the device."""
        state = self.state
        counts = state.totals.counts.cpu().numpy()
        histograms = [Histogram(self.encoding.binned, row, exact=self.encoding.exact) for row in counts]
        peaks, faults = state.peaks.finish(self.encoding), state.faults.finish()
        sun = [None] * len(self.sites) if state.sun is None else state.sun.finish()
        if state.wide is None or state.totals.top is None:
            return [
                SiteResult(
                    histogram=histogram,
                    high=None if peak is None else float(histogram.signed[0][-1]),
                    low=None if peak is None else float(histogram.signed[0][0]),
                    nan=histogram.nan,
                    inf=histogram.inf,
                    peak=peak,
                    fault=fault,
                    moments=histogram.moments(),
                    top=histogram.top(TOP),
                    sun=judged,
                )
                for histogram, peak, fault, judged in zip(histograms, peaks, faults, sun, strict=True)
            ]
        finite = counts.sum(-1) - (state.wide.nan + state.wide.inf).cpu().numpy()
        wides = state.wide.finish(finite.tolist(), state.totals.top)
        return [
            SiteResult(
                histogram=histogram,
                high=None if peak is None else wide.high,
                low=None if peak is None else wide.low,
                nan=wide.nan,
                inf=wide.inf,
                peak=peak,
                fault=fault,
                moments=wide.moments,
                top=wide.top,
                sun=judged,
            )
            for histogram, peak, fault, judged, wide in zip(histograms, peaks, faults, sun, wides, strict=True)
        ]

    def apart(self) -> Iterator[tuple[int, Modality, PeakAt]]:
        """By site and modality the peaks that there are; their signs and features mean nothing.

        Kernels tell sign and feature of a batch's largest value alone.
        """
        for modality, peaks in zip(MODALITIES, self.state.modalities, strict=False):
            for site, peak in enumerate(peaks.finish(self.encoding)):
                if peak is not None:
                    yield site, modality, peak

    def hidden_peaks(self) -> dict[int, Floats]:
        """By layer the peak of each sample, NaN where none was finite."""
        found = self.state.samples.hidden.cpu().numpy()
        return {
            self.sites[site].layer or 0: np.where(row < 0, np.nan, row) for site, row in zip(self._hidden, found, strict=True)
        }

    def sample_peaks(self) -> Floats:
        """Shape [n], the largest |a| of each sample over the group's sites of M; -1 where none was finite."""
        return self.state.samples.model.cpu().numpy()

    def sample_places(self) -> npt.NDArray[np.int64]:
        """Shape [n], where those stand: the number in `sites` * 2^32 + position, of equals the lowest; `NOWHERE` if nowhere."""
        return self.state.samples.place.cpu().numpy()


def _only(rows: Rows, modality: Modality) -> Rows:
    """The rows with the tokens of other modalities as if they held nothing; what is no token is of none."""
    image = torch.zeros_like(rows.real) if rows.image is None else rows.image
    wanted = (image if modality == "image" else ~image) & (rows.place < UNTRACED)
    return replace(rows, largest=torch.where(wanted, rows.largest, -1))
