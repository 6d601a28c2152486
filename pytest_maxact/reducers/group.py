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
        self.totals = Totals.zeros(encoding, len(sites), device)
        self.peaks = Peaks.zeros(len(sites), device)
        self.faults = Faults.zeros(len(sites), device)
        self.sun = Sun.zeros(len(sites), device) if judged_by_sun else None
        self.wide = None if encoding.exact else WideState.zeros(len(sites), device)
        self.by_modality = dict.fromkeys(MODALITIES if modalities else (), self.peaks)
        self._hidden = [index for index, site in enumerate(sites) if site.component == "hidden"]
        self._hidden_rows = torch.tensor(self._hidden, dtype=torch.int64, device=device)
        self._routers = torch.tensor([site.component == "router" for site in sites], device=device)
        self._part_of_m = torch.tensor([site.part_of_m for site in sites], device=device)
        self.samples = SamplePeaks.zeros(len(self._hidden), samples, device)
        self._parts: list[Rows] = []

    def begin(self, real: torch.Tensor, place: torch.Tensor, image: torch.Tensor | None = None) -> None:
        """Make room for a batch whose tokens are `real`, stand at `place`, and maybe for an image (see `Rows`)."""
        self._parts = []
        self.rows = self._room(real, place, image)
        self.views = [self.rows[site] for site in range(len(self.sites))]

    def take(self, samples: torch.Tensor) -> None:
        """Reduce the batch that kernels have filled in; `samples` are the sample indices of its B rows."""
        rows = Rows.joined(self._parts) if self._parts else self.rows
        self.peaks = self.peaks.update(rows)
        self.faults = self.faults.update(rows, self._routers)
        if self.sun is not None:
            self.sun = self.sun.update(rows)
        if self.wide is not None:
            self.wide = self.wide.update(rows)
        for modality, peaks in self.by_modality.items():
            self.by_modality[modality] = peaks.update(_only(rows, modality))
        if self._parts:
            self.samples.update_traced(rows, self._hidden_rows, self._part_of_m)
        else:
            self.samples.update(rows, samples.to(self.device), self._hidden_rows, self._part_of_m)

    def part(self, real: torch.Tensor, place: torch.Tensor, image: torch.Tensor | None = None) -> Rows:
        """Room for one call's rows, of the group's only site."""
        self._parts.append(self._room(real, place, image))
        return self._parts[-1][0]

    def _room(self, real: torch.Tensor, place: torch.Tensor, image: torch.Tensor | None) -> Rows:
        return Rows.empty(
            self.encoding,
            real.to(self.device),
            place.to(self.device),
            self.totals,
            median=self.sun is not None,
            image=None if image is None else image.to(self.device),
        )

    def finish(self) -> list[SiteResult]:
        """The results, in the order of `sites`; the first time that anything leaves the device."""
        counts = self.totals.counts.cpu().numpy()
        histograms = [Histogram(self.encoding.binned, row, exact=self.encoding.exact) for row in counts]
        peaks, faults = self.peaks.finish(self.encoding), self.faults.finish()
        sun = [None] * len(self.sites) if self.sun is None else self.sun.finish()
        if self.wide is None or self.totals.top is None:
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
        finite = counts.sum(-1) - (self.wide.nan + self.wide.inf).cpu().numpy()
        wides = self.wide.finish(finite.tolist(), self.totals.top)
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
        for modality, peaks in self.by_modality.items():
            for site, peak in enumerate(peaks.finish(self.encoding)):
                if peak is not None:
                    yield site, modality, peak

    def hidden_peaks(self) -> dict[int, Floats]:
        """By layer the peak of each sample, NaN where none was finite."""
        found = self.samples.hidden.cpu().numpy()
        return {
            self.sites[site].layer or 0: np.where(row < 0, np.nan, row) for site, row in zip(self._hidden, found, strict=True)
        }

    def sample_peaks(self) -> Floats:
        """Shape [n], the largest |a| of each sample over the group's sites of M; -1 where none was finite."""
        return self.samples.model.cpu().numpy()

    def sample_places(self) -> npt.NDArray[np.int64]:
        """Shape [n], where those stand: the number in `sites` * 2^32 + position, of equals the lowest; `NOWHERE` if nowhere."""
        return self.samples.place.cpu().numpy()


def _only(rows: Rows, modality: Modality) -> Rows:
    """The rows with the tokens of other modalities as if they held nothing; what is no token is of none."""
    image = torch.zeros_like(rows.real) if rows.image is None else rows.image
    wanted = (image if modality == "image" else ~image) & (rows.place < UNTRACED)
    return replace(rows, largest=torch.where(wanted, rows.largest, -1))
