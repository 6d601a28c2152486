"""`growth`: in a series of checkpoints, neither M nor a site has left its own history.

The rule, for M and for each site that is part of M by itself, over logarithms of max|a|:

1. The history is gone through from its oldest checkpoint on, and a value that had itself left what stood before it does not
   become part of it. So a blow-up stays red as long as it lasts, and what comes back from one is green. Only a history of fewer
   than `LEAST` values gives way, to the next `LEAST` in a row that left it: the first steps from random weights are no measure.
2. The last `WINDOW` values that remain give a trend, the line of Theil and Sen (Sen 1968, Estimates of the regression
   coefficient based on Kendall's tau): the median of the slopes of all pairs, and the median of what the slope leaves. It runs
   over steps, or over checkpoints where a step is unknown or they do not rise. Fewer than `LEAST` values are no trend, and the
   largest of them stands for it.
3. A falling trend counts as level, at the median: that a value stops falling or comes back is no blow-up. A rising one is
   carried on to the checkpoint at hand, by no more than the largest rise between two neighbours in the window. That is what the
   history predicts.
4. A value has left its history where it exceeds the prediction by a factor above growth^(1 + 1/n), n being how many values
   remained, and above growth^2 where they are no trend: a short history predicts badly. Where the values scatter, `SCALES`
   robust standard deviations (1.4826 times the median absolute residual) are allowed if that is more.

Sites below a thousandth of what M's history predicts are left out, as `profile` does. A zero is no history: writes that start
at zero tell no rate. A site that holds NaN or infinities, and held none at some checkpoint before, has left its history, too.
A fall never fails. Slow growth that keeps its rate is what its history predicts: it is told in words where it will soon pass
the largest number of FP16, and `growth_total` sets a limit to it.

The constants were chosen on some training runs, misses and false alarms counted on others: tests/benchmarks/RESULTS.md.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_maxact.checks.verdict import Tolerance, Verdict
from pytest_maxact.formats import FLOAT16
from pytest_maxact.history import Key, Point
from pytest_maxact.outcome import within_one_step
from pytest_maxact.record import PART_OF_M
from pytest_maxact.wording import number, ratio

NAME = "growth"
NEGLIGIBLE = 1000  # as in `profile`
WINDOW = 8
LEAST = 3
SCALES = 5.0
LARGEST_LOG = 700.0  # of a float64, about
NORMAL = 1.4826  # times the median absolute deviation is a normal distribution's standard deviation
AHEAD = 2.0  # a crossing is told of where it is at most so many lengths of the series away,
NEAR = 100  # and from a value of at least this part of the limit: no rate lasts for ever
SHOWN = 8
MOVERS = 3
WRITES = ("embedding", "attention", "mlp")  # what is added up to the residual stream


@dataclass(frozen=True)
class Trend:
    """A line through logarithms of values over time, in steps or checkpoints.

    last: the time of the last value. level: the line's log value there. slope: its rise per unit of time, at least 0. rise: the
    largest rise of a log value between two neighbours, at least 0. scale: robust standard deviation of the log values around
    the line, 0 where they are too few. steady: whether three quarters of all pairs of values rise.
    """

    last: float
    level: float
    slope: float
    rise: float
    scale: float
    steady: bool

    @classmethod
    def through(cls, times: Sequence[float], logs: Sequence[float]) -> Trend:
        """The line through one or more values at rising times (rule 2)."""
        rise = max([0.0, *(after - before for before, after in itertools.pairwise(logs))])
        if len(logs) < LEAST:
            return cls(times[-1], max(logs), 0.0, rise, 0.0, steady=False)
        pairs = itertools.combinations(zip(times, logs, strict=True), 2)
        slopes = sorted((log - earlier_log) / (time - earlier) for (earlier, earlier_log), (time, log) in pairs)
        slope = max(0.0, statistics.median(slopes))
        rests = [log - slope * (time - times[-1]) for time, log in zip(times, logs, strict=True)]
        level = statistics.median(rests)
        scale = NORMAL * statistics.median(abs(rest - level) for rest in rests)
        return cls(times[-1], level, slope, rise, scale, steady=slopes[len(slopes) // 4] > 0)

    def at(self, time: float) -> float:
        """The log value that is predicted for a later time (rule 3)."""
        return self.level + min(self.slope * (time - self.last), self.rise)


@dataclass(frozen=True)
class Course:
    """The values of M or of a site, oldest first, the last one judged by the others.

    kept: times and log values of those before the last that had not left their own history. predicted: what they predict for
    the last, None where none remained. allowed: the most that it may be. since: the index from which on all to the last have
    left, None where the last has not.
    """

    times: Sequence[float]
    values: Sequence[float]
    kept: list[tuple[float, float]]
    predicted: float | None
    allowed: float
    since: int | None

    @classmethod
    def of(cls, times: Sequence[float], values: Sequence[float], growth: float) -> Course:
        """Judge each value by those that remain before it; NaN and 0 are no history."""
        kept: list[tuple[float, float]] = []
        since = None
        out: list[tuple[float, float]] = []
        for index, (time, value) in enumerate(zip(times, values, strict=True)):
            if len(kept) < LEAST <= len(out):
                kept, out = out, []
            predicted, allowed = _predict(kept, time, growth)
            since = (index if since is None else since) if value > allowed else None
            if index < len(values) - 1 and value > 0:
                out = [*out, (time, math.log(value))] if value > allowed else []
                kept = kept if value > allowed else [*kept, (time, math.log(value))]
        return cls(times, values, kept, predicted, allowed, since)

    @property
    def left(self) -> bool:
        """Whether the last value left its history."""
        return self.since is not None

    @property
    def factor(self) -> float:
        """The last value over what was predicted, NaN where nothing was."""
        return math.nan if self.predicted is None else self.values[-1] / self.predicted

    def passes_in(self, limit: float) -> float | None:
        """In how much time the trend passes a limit; None where it does not rise steadily, has left, is far off or beyond."""
        value = self.values[-1]
        if self.left or not limit / NEAR <= value <= limit:
            return None
        recent = [*self.kept, (self.times[-1], math.log(value))][-WINDOW:]
        trend = Trend.through(*zip(*recent, strict=True))
        return max(0.0, (math.log(limit) - trend.level) / trend.slope) if trend.steady else None


def _predict(kept: Sequence[tuple[float, float]], time: float, growth: float) -> tuple[float | None, float]:
    """What a history predicts for a time, and the most that is allowed then (rules 2 to 4)."""
    if not kept:
        return None, math.inf
    trend = Trend.through(*zip(*kept[-WINDOW:], strict=True))
    log = min(trend.at(time), LARGEST_LOG)
    exponent = 2 if len(kept) < LEAST else 1 + 1 / len(kept)
    margin = max(exponent * math.log(growth), SCALES * trend.scale)
    return math.exp(log), math.exp(min(log + margin, LARGEST_LOG))


@dataclass(frozen=True)
class _Series:
    """A checkpoint with what stands before it, and the courses that follow from them.

    times: steps where by_steps, else the numbers of the checkpoints. m: the course of M. sites: of the sites that are judged,
    in execution order. unfit: sites that are part of M and hold NaN or infinities where there were none.
    """

    point: Point
    history: Sequence[Point]
    times: list[float]
    by_steps: bool
    m: Course
    sites: dict[Key, Course]
    unfit: list[Key]

    @classmethod
    def of(cls, point: Point, history: Sequence[Point], growth: float) -> _Series:
        points = [*history, point]
        times, by_steps = _times(points)
        m = Course.of(times, [p.m for p in points], growth)
        floor = (point.m if m.predicted is None else m.predicted) / NEGLIGIBLE
        courses = {
            key: Course.of(times, [p.values.get(key, math.nan) for p in points], growth)
            for key, value in point.values.items()
            if key[0] in PART_OF_M and value >= floor
        }
        sites = {key: course for key, course in courses.items() if course.predicted is not None}
        unfit = [key for key in point.values if key in point.unfit and any(key not in p.unfit for p in history)]
        return cls(point, history, times, by_steps, m, sites, unfit)

    @property
    def left(self) -> list[Key]:
        """The sites that left their history, in execution order."""
        return [key for key in self.point.values if key in self.unfit or (key in self.sites and self.sites[key].left)]

    def since(self, key: Key) -> Point:
        """The checkpoint from which on to the last a site has left."""
        points = [*self.history, self.point]
        if key not in self.unfit:
            return points[self.sites[key].since or 0]
        return list(itertools.takewhile(lambda p: key in p.unfit, reversed(points)))[-1]

    def origin(self) -> Key:
        """Where it started, of the sites that left.

        The residual stream is a sum, so what lifted it is the largest write into it, of those that left, up to the first
        `hidden` layer that did. Where none is, the writes passed on less than they gathered: that `hidden` layer itself. Where
        the stream did not leave, it is the write that left by most, else whatever was first. NaN and infinities spread to all
        that follows: the first one ends the search, and is the answer where nothing left before it.
        """
        left = self.left
        finite = list(itertools.takewhile(lambda key: key not in self.unfit, left))
        if not finite:
            return left[0]
        lifted = next((index for index, (component, _) in enumerate(finite) if component == "hidden"), None)
        writes = [key for key in finite[:lifted] if key[0] in WRITES]
        if lifted is not None:
            return max(writes, key=lambda key: self.point.values[key], default=finite[lifted])
        return max(writes, key=lambda key: self.sites[key].factor, default=finite[0])


def check(point: Point, history: Sequence[Point], tolerance: Tolerance) -> Verdict:
    """Pass where neither M nor a site that is part of it left its own history.

    Args:
        point: the checkpoint to judge.
        history: the checkpoints before it, oldest first.
        tolerance: its `growth` and `growth_total` count.

    Returns:
        The verdict. Its value is M over the predecessor's M, None where either has none. Skipped without a history. Sites are
        listed where something begins, not at each checkpoint for which it lasts.

    """
    if not history:
        return Verdict(NAME, "skipped", f"{point.label} has no predecessor")
    if math.isnan(point.m):
        return Verdict(NAME, "failed", "no site holds a finite value, so there is no M")
    before, first = history[-1], history[0]
    strange = [f"{_site(key)}: in {before.label}, not here" for key in before.values if key not in point.values]
    strange += [f"{_site(key)}: not in {before.label}" for key in point.values if key not in before.values]
    if strange:
        what = "1 site is" if len(strange) == 1 else f"{len(strange)} sites are"
        summary = f"{what} missing or new: all checkpoints of a series need the same architecture"
        return Verdict(NAME, "failed", summary, _shown(strange))
    series = _Series.of(point, history, tolerance.growth)
    problems = _problems(series, tolerance)
    remarks = _remarks(series)
    change = f"M = {number(point.m)} at {point.peak}: {_times_of(point.m, before)} its predecessor {before.label}"
    if len(history) > 1:
        change += f", {_times_of(point.m, first)} the first {first.label}"
    value = point.m / before.m if before.m > 0 else None
    if not problems:
        return Verdict(NAME, "passed", "; ".join([change, *remarks]), value=value)
    sites = [] if _old(series) else [*_shown([f"{_site(key)}: {_change(key, series)}" for key in series.left]), _movers(series)]
    details = [*sites, *remarks]
    return Verdict(NAME, "failed", "; ".join([change, *problems]), tuple(details), value)


def _times(points: Sequence[Point]) -> tuple[list[float], bool]:
    """Steps where all are known and rise, else the checkpoints' numbers, and which of them."""
    steps = [p.step for p in points if p.step is not None]
    by_steps = len(steps) == len(points) and all(earlier < later for earlier, later in itertools.pairwise(steps))
    return [float(time) for time in (steps if by_steps else range(len(points)))], by_steps


def _problems(series: _Series, tolerance: Tolerance) -> list[str]:
    """What is wrong, each in words."""
    point, first, left = series.point, series.history[0], series.left
    problems = []
    if left:
        judged = len(set(series.sites).union(series.unfit))
        origin = series.origin()
        when = "" if (since := series.since(origin)) is point else f" since {since.label}"
        cause = f"{_cause(origin)}{when} ({_change(origin, series)})"
        problems.append(f"{len(left)} of {judged} sites left their own history, starting with the {cause}")
    if series.m.left and not left:
        problems.append(f"M left its own history, which predicts {_figure(series.m.predicted)}")
    limit = tolerance.growth_total
    if limit is not None and first.m > 0 and point.m > limit * first.m:
        problems.append(f"more than {limit:g}x the first")
    return problems


def _old(series: _Series) -> bool:
    """Whether what is wrong began at an earlier checkpoint, which told the sites."""
    return bool(series.left) and series.since(series.origin()) is not series.point


def _cause(key: Key) -> str:
    """A site as the place where growth began."""
    component, layer = key
    wordings = {
        "attention": f"attention write of layer {layer}",
        "mlp": f"MLP write of layer {layer}",
        "gate": f"gate of the MLP write of layer {layer}",
        "hidden": f"accumulation in the residual stream at hidden layer {layer}",
        "embedding": "token embedding",
        "final_norm": "final norm",
    }
    return wordings[component]


def _change(key: Key, series: _Series) -> str:
    """What happened to a site that left its history."""
    if key in series.unfit:
        return f"{series.point.unfit[key]:,} NaN or infinities"
    course = series.sites[key]
    return f"{number(course.values[-1])}, {course.factor:.2f}x the {_figure(course.predicted)} that it predicts"


def _remarks(series: _Series) -> list[str]:
    """What is worth a word and no failure: M moved, the Sun outcome flipped, experts died, FP16 is near."""
    point, before = series.point, series.history[-1]
    remarks = []
    then = before.peak
    if then not in (None, point.peak) and not within_one_step(point.values[then.component, then.layer], point.m):
        remarks.append(f"M moved from {then} to {point.peak}")
    if None not in (point.massive, before.massive) and point.massive != before.massive:
        words = "massive activations now, none in" if point.massive else "no massive activations now, some in"
        remarks.append(f"the Sun outcome flipped: {words} {before.label}")
    died = [
        f"{', '.join(map(str, sorted(gone)))} of layer {key[1]}"
        for key, idle in point.idle.items()
        if key in before.idle and (gone := idle - before.idle[key])
    ]
    if died:
        remarks.append(f"experts that had tokens in {before.label} and have none now: {'; '.join(_shown(died))}")
    crossing = _crossing(series)
    return remarks if crossing is None else [*remarks, crossing]


def _crossing(series: _Series) -> str | None:
    """The site that soonest passes FP16's largest number if its trend goes on, where that is near (see `AHEAD`)."""
    span = series.times[-1] - series.times[0]
    waits = {key: course.passes_in(FLOAT16.largest) for key, course in series.sites.items()}
    near = {key: wait for key, wait in waits.items() if wait is not None and wait <= AHEAD * span}
    if not near:
        return None
    soonest = min(near, key=lambda key: near[key])  # of equals the first in execution order
    if series.by_steps:
        when = f"in {float(f'{max(near[soonest], 1.0):.2g}'):,.0f} steps"
    else:
        count = max(1, math.ceil(near[soonest]))
        when = f"in about {count} checkpoint{'s' if count > 1 else ''}"
    return f"at this rate {_site(soonest)} passes FP16's {FLOAT16.largest:,.0f} {when}"


def _movers(series: _Series) -> str:
    """The sites that rose most against the predecessor, in one line."""
    before = series.history[-1].values
    rises = {key: series.point.values[key] / before[key] for key in series.sites if before[key] > 0}
    most = sorted(rises, key=lambda key: rises[key], reverse=True)[:MOVERS]
    return "largest movers: " + ", ".join(f"{_site(key)} {rises[key]:.2f}x" for key in most)


def _times_of(m: float, reference: Point) -> str:
    return ratio(m, reference.m) if reference.m > 0 else "no ratio to"


def _figure(value: float | None) -> str:
    return "nothing" if value is None or math.isnan(value) else number(value)


def _site(key: Key) -> str:
    component, layer = key
    return component if layer is None else f"`{component}` layer {layer}"


def _shown(lines: list[str]) -> tuple[str, ...]:
    """Lines for details, cut where there are many."""
    hidden = len(lines) - SHOWN
    return (*lines[:SHOWN], *([f"... and {hidden} more"] if hidden > 0 else []))
