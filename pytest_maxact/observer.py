"""What watches a running model: taps on all sites let a kernel read what each holds, and reducers keep the figures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from pytest_maxact.anatomy import Anatomy, Placement
from pytest_maxact.anatomy.routing import chosen, tokens
from pytest_maxact.batching import Batch, Texts
from pytest_maxact.errors import MeasurementError
from pytest_maxact.formats import sqnr
from pytest_maxact.record import VISION, WITH_SUN, ModalityPeak, SiteFigures
from pytest_maxact.reducers.encoding import ENCODINGS
from pytest_maxact.reducers.experts import ExpertTokens, chosen_experts
from pytest_maxact.reducers.group import GroupState, SiteGroup, SiteResult
from pytest_maxact.reducers.kernels import Shape, choose
from pytest_maxact.reducers.rows import NOWHERE, UNTRACED
from pytest_maxact.reducers.samples import POSITION
from pytest_maxact.sidecar import Arrays
from pytest_maxact.taps import Tap, tapped
from pytest_maxact.wrappers import run

GROUP_SITES = 32  # reduced at once; more take memory, fewer take launches on a GPU
QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999)


@dataclass(frozen=True)
class State:
    """All that an observer knows of the batches that are through.

    groups: of its groups, in order. experts: of the sites that are routers, in order. tokens: int64 [n], on the host, how many
    real tokens of each of n samples were seen.
    """

    groups: tuple[GroupState, ...]
    experts: tuple[ExpertTokens, ...]
    tokens: torch.Tensor

    def merge(self, other: State) -> State:
        """The state of both streams together."""
        return State(
            tuple(mine.merge(theirs) for mine, theirs in zip(self.groups, other.groups, strict=True)),
            tuple(mine.merge(theirs) for mine, theirs in zip(self.experts, other.experts, strict=True)),
            self.tokens + other.tokens,
        )


class Observer:
    """Holds the groups of all sites: its hooks let a kernel read what each site gave, `run` reduces a batch that is through.

    Sites with one row a token are reduced in large groups. Those that are called several times, or whose rows are others,
    have a group each.

    seconds: spent in hooks and reductions so far, as the host sees it.
    """

    def __init__(self, anatomy: Anatomy, samples: int) -> None:
        self.anatomy = anatomy
        images = any(placement.only_with_images for placement in anatomy.placements)
        self.seconds = 0.0
        alike: dict[tuple[torch.dtype, torch.device, bool, bool], list[Placement]] = {}
        shapes: dict[torch.device, set[Shape]] = {}
        for placement in anatomy.placements:
            _check_dtype(placement, placement.dtype)
            device, sun = _home(placement.device), placement.site.component in WITH_SUN
            alike.setdefault((placement.dtype, device, sun, placement.only_with_images), []).append(placement)
            shapes.setdefault(device, set()).update(Shape(placement.dtype, width, sun) for width in placement.widths)
        self.kernels = {device: choose(device, wanted) for device, wanted in shapes.items()}
        self.groups: list[SiteGroup] = []
        self._slots: dict[Placement, tuple[SiteGroup, int]] = {}
        for (dtype, device, sun, _), placements in alike.items():
            once = [placement for placement in placements if placement.once]
            several = [[placement] for placement in placements if not placement.once]
            for members in [*(once[start : start + GROUP_SITES] for start in range(0, len(once), GROUP_SITES)), *several]:
                sites = [placement.site for placement in members]
                group = SiteGroup(
                    ENCODINGS[dtype],
                    sites,
                    device,
                    samples=samples,
                    judged_by_sun=sun,
                    modalities=images and sites[0].component != VISION,
                )
                self.groups.append(group)
                self._slots |= {placement: (group, index) for index, placement in enumerate(members)}
        self._only_with_images = {group for placement, (group, _) in self._slots.items() if placement.only_with_images}
        self._experts = {
            placement: ExpertTokens.zeros(placement.widths[0], self._slots[placement][0].device)
            for placement in anatomy.placements
            if placement.site.component == "router"
        }
        self._tokens_seen = torch.zeros(samples, dtype=torch.int64, device="cpu")
        self._reached: set[tuple[Placement, Tap]] = set()
        self._routed: dict[Placement, _Routed] = {}
        self._sent_to: dict[nn.Module, list[Placement]] = {}
        for placement in anatomy.placements:
            if placement.experts is not None:
                self._sent_to.setdefault(placement.experts, []).append(placement)
        self._layer: int | None = None
        self._layers_run = 0

    @property
    def kernel(self) -> str:
        """The kernels in use, by name."""
        return "+".join(sorted({kernel.name for kernel in self.kernels.values()}))

    @property
    def notes(self) -> list[str]:
        """Why a kernel is not the fast one."""
        return sorted({kernel.note for kernel in self.kernels.values() if kernel.note is not None})

    @property
    def state(self) -> State:
        """What is known so far. The next batch changes it in place: it is to be written or merged before."""
        return State(tuple(group.state for group in self.groups), tuple(self._experts.values()), self._tokens_seen)

    @state.setter
    def state(self, state: State) -> None:
        for group, known in zip(self.groups, state.groups, strict=True):
            group.state = known
        self._experts = dict(zip(self._experts, state.experts, strict=True))
        self._tokens_seen = state.tokens

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks on all sites."""
        at: dict[Tap, dict[int | None, tuple[Placement, Tap]]] = {}
        for placement in self.anatomy.placements:
            for tap in placement.taps:  # a module that layers share has a name in each
                at.setdefault(replace(tap, name=""), {})[placement.site.layer] = (placement, tap)
        with ExitStack() as stack:
            if any(len(placements) > 1 for placements in at.values()):  # layers share modules
                for number, module in enumerate(self.anatomy.stack.names):
                    stack.callback(module.register_forward_pre_hook(self._entering(number)).remove)
            for experts in self._sent_to:
                stack.callback(experts.register_forward_pre_hook(self._routing, with_kwargs=True).remove)
            stack.enter_context(tapped({tap: self._hook(placements) for tap, placements in at.items()}))
            yield

    def run(self, batch: Batch, device: torch.device) -> None:
        """A batch through the hooked model and into the groups.

        Raises:
            MeasurementError: where a site was not reached, or what it held is not as the probe saw it.

        """
        start = time.perf_counter()
        tokens = _Tokens(batch.real, batch.place, None if batch.image is None else batch.image.reshape(-1))
        self._tokens = {group.device: tokens.to(group.device) for group in self.groups}
        self._rows_of_batch = len(tokens.real)
        self._reached.clear()
        self._routed.clear()
        self._layers_run = 0
        for group in self.groups:
            group.begin(*self._tokens[group.device])
        self.seconds += time.perf_counter() - start
        model = self.anatomy.whole if batch.extra else self.anatomy.core
        run(model, batch.inputs(device))
        start = time.perf_counter()
        for placement in self.anatomy.placements:
            if placement.only_with_images and not batch.extra:
                continue
            missed = [tap for tap in placement.taps if (placement, tap) not in self._reached]
            if len(missed) < len(placement.taps):  # of several experts with rows of their own some may be sent no token
                missed = [tap for tap in missed if tap.rows != "unknown"]
            if missed:
                names = " and ".join(map(str, missed))
                raise MeasurementError(f"{placement.site} ({names}) was not reached by a batch: its peak is unknown")
        for placement, routed in self._routed.items():
            if not routed.complete:
                raise MeasurementError(f"{placement.site} held other rows than its experts were sent: none can be told apart")
        for group in self.groups:
            if batch.extra or group not in self._only_with_images:
                group.take(batch.samples)
        self._tokens_seen = self._tokens_seen.index_add(0, batch.samples, batch.mask.sum(-1))
        self.seconds += time.perf_counter() - start

    def let_go(self) -> None:
        """Hold nothing of a batch that did not get through; what was counted of it stays in the state."""
        nothing = _Tokens(torch.empty(0, dtype=torch.bool), torch.empty(0, dtype=torch.int64), None)
        self._tokens = {group.device: nothing.to(group.device) for group in self.groups}
        self._routed.clear()
        for group in self.groups:
            group.begin(*self._tokens[group.device])

    def check(self, batches: Iterable[Batch]) -> None:
        """Make sure that every real token of these batches was counted exactly once, at every site that has one row a token.

        Raises:
            MeasurementError: where one was not.

        """
        wanted = torch.zeros_like(self._tokens_seen)
        for batch in batches:
            wanted.index_add_(0, batch.samples, batch.mask.sum(-1))
        wrong = (self._tokens_seen != wanted).nonzero()
        if len(wrong):
            sample = int(wrong[0])
            raise MeasurementError(
                f"sample {sample} was counted with {int(self._tokens_seen[sample])} tokens and has {int(wanted[sample])}: "
                "these figures are wrong, and were thrown away; please report this"
            )
        for placement in self.anatomy.placements:
            group, index = self._slots[placement]
            if placement.once and not placement.only_with_images:
                found, tokens = int(group.state.totals.counts[index].sum()), int(wanted.sum())
                if found != tokens * placement.widths[0]:
                    raise MeasurementError(
                        f"{placement.site} counted {found} values and not {placement.widths[0]} for each of {tokens} tokens: "
                        "these figures are wrong, and were thrown away; please report this"
                    )

    def finish(self, texts: Texts) -> tuple[list[SiteFigures], Arrays]:
        """The figures of all sites, in the order in which the model ran them."""
        results = {site: result for group in self.groups for site, result in zip(group.sites, group.finish(), strict=True)}
        hidden = {layer: peaks for group in self.groups for layer, peaks in group.hidden_peaks().items()}
        arrays = Arrays(
            histograms=[results[placement.site].histogram for placement in self.anatomy.placements],
            hidden_peaks=np.stack([hidden[layer] for layer in sorted(hidden)]).astype(np.float32),
        )
        experts = {placement: counts.finish() for placement, counts in self._experts.items() if counts.counts.any()}
        figures = [_figures(p, results[p.site], experts.get(p), texts) for p in self.anatomy.placements]
        return figures, arrays

    def sample_peaks(self) -> list[tuple[float, int | None]]:
        """Of each sample max|a| over the sites of M, and its position: that of the site run first, there the lowest.

        NaN and None where no value was finite. Rows that cannot be traced to a token are left out.
        """
        numbers = {placement.site: number for number, placement in enumerate(self.anatomy.placements)}
        values = np.stack([group.sample_peaks() for group in self.groups])
        places = np.full(values.shape, NOWHERE)
        for group, row in zip(self.groups, places, strict=True):
            found = group.sample_places()
            held = found != NOWHERE
            run_as = np.array([numbers[site] for site in group.sites])
            row[held] = (run_as[found[held] >> 32] << 32) + (found[held] & POSITION)
        best = values.max(0)
        first = np.where(values == best, places, NOWHERE).min(0)
        return [
            (math.nan, None) if value < 0 else (value, place & POSITION)
            for value, place in zip(best.tolist(), first.tolist(), strict=True)
        ]

    def modalities(self, texts: Texts) -> list[ModalityPeak]:
        """The peaks by modality, where there are images."""
        sites = [placement.site for placement in self.anatomy.placements]
        found = [(group.sites[index], modality, peak) for group in self.groups for index, modality, peak in group.apart()]
        found.sort(key=lambda one: sites.index(one[0]))
        peaks = []
        for modality, count in texts.work.tokens_by_modality.items():
            held = [(abs(peak.signed), site, peak) for site, of, peak in found if of == modality and site.part_of_m]
            if held:
                value, site, peak = max(held, key=lambda one: one[0])
                where = texts.location(peak)
                peaks.append(
                    ModalityPeak(
                        modality=modality,
                        tokens=count,
                        value=value,
                        component=site.component,
                        layer=site.layer,
                        sample=where.sample,
                        position=where.position,
                        token=where.token,
                    )
                )
        return peaks

    def _hook(self, placements: dict[int | None, tuple[Placement, Tap]]) -> Callable[[torch.Tensor, Any], None]:
        if len(placements) > 1:
            return lambda value, output: self._observe(*placements[self._layer], value, output)
        ((placement, tap),) = placements.values()
        return lambda value, output: self._observe(placement, tap, value, output)

    def _observe(self, placement: Placement, tap: Tap, value: torch.Tensor, output: Any) -> None:
        start = time.perf_counter()
        group, index = self._slots[placement]
        if value.dtype != placement.dtype:
            _check_dtype(placement, value.dtype)
            raise MeasurementError(
                f"{placement.site} changed its dtype from {group.encoding.name} to "
                f"{ENCODINGS[value.dtype].name}: measure without autocast"
            )
        if placement.once and (placement, tap) in self._reached:
            raise MeasurementError(f"{placement.site} ({placement.name}) ran more than once in a batch")
        rows = tap.flat(value)
        if tap.rows == "tokens" and len(rows) != self._rows_of_batch:
            raise MeasurementError(f"{placement.site} holds {tuple(value.shape)}: its rows are not the batch's tokens")
        view = group.views[index] if placement.once else group.part(*self._rows(placement, tap, len(rows)))
        self.kernels[group.device].scan(rows.to(group.device), view)
        self._reached.add((placement, tap))
        if placement.site.component == "router" and placement.experts is None:
            sent = chosen_experts(output, self._rows_of_batch)
            if sent is not None:
                self._count(placement, sent)
        self.seconds += time.perf_counter() - start

    def _rows(self, placement: Placement, tap: Tap, count: int) -> _Tokens:
        """What the rows of a call are."""
        group, _ = self._slots[placement]
        batch = self._tokens[group.device]
        if tap.rows == "tokens":
            return batch
        if tap.rows == "unknown":
            real = torch.ones(count, dtype=torch.bool, device=group.device)
            return _Tokens(real, torch.full((count,), UNTRACED, device=group.device), None)
        routed = self._routed[placement].next(count).to(group.device)
        if len(routed) != count:
            raise MeasurementError(f"{placement.site} held other rows than its experts were sent: none can be told apart")
        return batch.at(routed)

    def _entering(self, number: int) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self._layer = self._layers_run if self.anatomy.stack.in_turns else number
            self._layers_run += 1

        return enter

    def _routing(self, experts: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What experts are told of where tokens go: it traces the rows of their gates, and counts tokens by expert."""
        start = time.perf_counter()
        index = chosen((*args, *kwargs.values()))
        if index is not None:
            sent_to = self._sent_to[experts]
            if len({placement.site.layer for placement in sent_to}) > 1:
                sent_to = [placement for placement in sent_to if placement.site.layer == self._layer]
            for placement in sent_to:
                if placement.order is not None:
                    self._routed[placement] = _Routed(tokens(index, placement.order, len(experts.gate_up_proj)))
                elif placement.site.component == "router" and len(index) == self._rows_of_batch:
                    self._count(placement, index)
        self.seconds += time.perf_counter() - start

    def _count(self, placement: Placement, index: torch.Tensor) -> None:
        device = self._slots[placement][0].device
        self._experts[placement] = self._experts[placement].update(index.to(device), self._tokens[device].real)


class _Tokens(NamedTuple):
    """Of N rows which are real, where their tokens stand, and which stand for images; as in `Rows`."""

    real: torch.Tensor
    place: torch.Tensor
    image: torch.Tensor | None

    def to(self, device: torch.device) -> _Tokens:
        """The same on a device."""
        return _Tokens(self.real.to(device), self.place.to(device), None if self.image is None else self.image.to(device))

    def at(self, rows: torch.Tensor) -> _Tokens:
        """Some of them, in another order."""
        return _Tokens(self.real[rows], self.place[rows], None if self.image is None else self.image[rows])


class _Routed:
    """The tokens, int64 [n], of the rows that experts work on in a forward, handed out call by call."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows
        self.given = 0

    def next(self, count: int) -> torch.Tensor:
        """Those of the next call."""
        self.given += count
        return self.rows[self.given - count : self.given]

    @property
    def complete(self) -> bool:
        """Whether all have been handed out, and no more."""
        return self.given == len(self.rows)


def _home(device: torch.device) -> torch.device:
    """Where tensors of a device are read: kernels know CPUs and CUDA devices; others lack float64."""
    return device if device.type == "cuda" else torch.device("cpu")


def _check_dtype(placement: Placement, dtype: torch.dtype) -> None:
    if dtype not in ENCODINGS:
        known = ", ".join(encoding.name for encoding in ENCODINGS.values())
        name = str(dtype).removeprefix("torch.")
        raise MeasurementError(f"{placement.site} holds {name}, which is none of {known}: convert the model to one of them")


def _figures(placement: Placement, found: SiteResult, experts: list[int] | None, texts: Texts) -> SiteFigures:
    high, low = (math.nan, math.nan) if found.high is None or found.low is None else (found.high, found.low)
    moments, histogram = found.moments, found.histogram
    largest = max(abs(high), abs(low))
    return SiteFigures(
        component=placement.site.component,
        layer=placement.site.layer,
        max=high,
        min=low,
        count=int(histogram.counts.sum()),
        nan=found.nan,
        inf=found.inf,
        peak=None if found.peak is None else texts.location(found.peak),
        fault=None if found.fault is None else texts.location(found.fault),
        mean=moments.mean,
        std=moments.std,
        rms=moments.rms,
        abs_mean=moments.abs_mean,
        abs_quantiles={str(q): histogram.quantile(q) for q in QUANTILES},
        top=found.top,
        crest=largest / moments.rms if moments.rms else math.nan,
        sun=found.sun,
        sqnr=sqnr(histogram),
        approximate=not histogram.exact,
        experts=experts,
    )
