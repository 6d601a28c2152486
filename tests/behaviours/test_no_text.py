"""`--maxact-no-text`: a corpus that is private leaves no trace of its texts, ids and categories in anything written or shown.

A canary is planted in each of them. What is searched is everything that a session leaves: the folder with baselines, records,
JUnit file and pytest's cache, what workers share while it runs, and the terminal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pytest_maxact.checkpoint import find, load
from pytest_maxact.corpus import Corpus, Sample, load_corpus
from pytest_maxact.errors import MeasurementError
from pytest_maxact.record import Baseline, Measurement
from pytest_maxact.runner import measure
from tests.behaviours.conftest import GREEN, User

TEXT = "шифр 鯨鯢 λόγος "
IDS, CATEGORIES = "quokka", "wombat"
KEEP = """
import shutil
from pytest_maxact.config import FOLDER

def pytest_terminal_summary(config):
    if FOLDER in config.stash:
        shutil.copytree(config.stash[FOLDER], "kept", dirs_exist_ok=True)
"""


@pytest.fixture
def private(quick_user: User, monkeypatch: pytest.MonkeyPatch) -> User:
    """A user with a private corpus, whose records keep samples in their arrays as those of a large one do."""
    monkeypatch.setattr("pytest_maxact.record.LARGE", 1)
    (quick_user.folder / "conftest.py").write_text(KEEP)
    for name in ("texts", "more"):
        lines = [
            {"id": f"{IDS}-{name}-{i}", "category": f"{CATEGORIES}-{i % 2}", "text": TEXT * (i + 1) + name} for i in range(3)
        ]
        file = quick_user.folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return quick_user


def canaries() -> set[str]:
    """The planted words, the tokens of the texts that occur nowhere else, and each as JSON escapes it."""
    tokenizer = load(find("demo")).tokenizer
    tokens = {tokenizer.decode([token]) for token in tokenizer(TEXT)["input_ids"]}
    words = {IDS, CATEGORIES, *TEXT.split(), *(token.strip() for token in tokens if not token.isascii())}
    return {form for word in words if word for form in (word, json.dumps(word)[1:-1])}


def found_in(user: User, shown: str) -> dict[str, set[str]]:
    """Which canaries stand in which file below the user's folder, the corpora left out, or in what was shown."""
    texts = {"terminal": shown}
    for path in user.folder.rglob("*"):
        if path.is_file() and path.parent / path.name not in (user.corpus, user.folder / "more.jsonl"):
            data = path.read_bytes()
            if path.suffix == ".npz":
                with np.load(path) as arrays:
                    data = arrays["samples"].tobytes()  # the others hold numbers, in whose bytes a letter stands by chance
            texts[str(path.relative_to(user.folder))] = data.decode("utf-8", errors="ignore")
    known = canaries()
    return {name: held for name, text in texts.items() if (held := {word for word in known if word in text})}


def run(user: User, *args: str) -> str:
    """A green run that writes all there is to write, and a red one; what they show."""

    def typed(baseline: str, *more: str) -> str:
        both = f"--maxact-corpus={user.corpus}+{user.folder / 'more.jsonl'}"
        policies = ("--maxact-special-tokens=none", "--maxact-special-tokens=tokenizer")
        settings = ("-v", "--maxact-model=demo", both, *policies, f"--maxact-baseline={baseline}")
        result = user.pytest(*settings, *more, *args, baseline=None)
        return str(result.stdout) + str(result.stderr)

    shown = typed("own", "--maxact-update", "--maxact-json=r.json")
    assert user.seen == GREEN
    own = Baseline.load(user.folder / "baselines" / "own.json")
    low = own.peak.model_copy(update={"value": own.peak.value / 2})
    sites = [site.model_copy(update={"max": site.max / 2, "min": site.min / 2}) for site in own.sites]
    parts = [part.model_copy(update={"value": part.value / 2}) for part in own.parts]
    own.model_copy(update={"peak": low, "sites": sites, "parts": parts}).save(user.folder / "baselines" / "low.json")
    shown += typed("low")
    assert user.seen["maxact::maximum"] == user.seen["maxact::profile"] == "failed"
    return shown + typed("low", "--maxact-update")


def test_nothing_of_a_private_corpus_is_written_or_shown(private: User) -> None:
    shown = run(private, "--maxact-no-text")
    assert found_in(private, shown) == {}
    assert "reused, measured at" in shown
    assert not list(private.folder.rglob("*.npz"))
    record = Measurement.load(private.folder / "r.json")
    assert record.peak is not None
    assert (record.peak.token, record.peak.token_id, record.peak.before, record.peak.after) == (None,) * 4
    assert [sample.id for sample in record.samples] == ["0", "1", "2", "3", "4", "5"]
    assert record.corpus.categories == {"0": 4, "1": 2}
    assert [sample.category for sample in record.samples] == ["0", "1", "0"] * 2
    both = load_corpus(f"{private.corpus}+{private.folder / 'more.jsonl'}")
    assert record.corpus.digest == both.digest


def test_arrays_are_left_out_since_they_tell_the_tokens() -> None:
    """Of the tokens of the vocabulary just those of the text have an embedding whose values all occur often enough."""
    checkpoint: Any = load(find("demo"))
    corpus = Corpus("private", (Sample("a", "b", text="The patient was told on Monday that the test was positive."),))
    occurred = measure(checkpoint, corpus=corpus).histogram("embedding", None).counts
    rows = checkpoint.model.get_input_embeddings().weight.detach().to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    possible = {token for token, row in enumerate(rows) if (occurred >= np.bincount(row, minlength=1 << 16)).all()}
    assert possible == set(checkpoint.tokenizer(corpus.samples[0].text)["input_ids"])
    with pytest.raises(MeasurementError, match="came without its arrays"):
        measure(checkpoint, corpus=corpus, text=False).histogram("embedding", None)


def test_a_record_with_texts_is_not_taken_for_one_without_nor_the_other_way_round(private: User) -> None:
    """And without the option the search above does find what it looks for, so it looks in the right places."""
    shown = run(private)
    held = found_in(private, shown)
    folder = ".pytest_cache/d/maxact/"
    cached = {Path(name).name for name in held if name.startswith(folder)}
    assert {"terminal", "seen.xml", "r.json", "r.npz", "baselines/own.json"} <= held.keys()
    assert cached == {"record.json", "record.npz"}
    assert any(name.startswith("kept/") for name in held)
    assert {IDS, CATEGORIES} <= held["r.npz"]
    before = len(private.records)
    result = private.pytest("--maxact-no-text", "--maxact-json=s.json", "--maxact-update", model="demo", baseline="own")
    result.stdout.no_fnmatch_line("reused*")
    result.stdout.fnmatch_lines(["peak: token and sample are no longer told"])
    private.pytest("--maxact-json=t.json", model="demo", baseline="none")
    assert len(private.records) == before + 2
    assert Baseline.load(private.folder / "baselines" / "own.json").peak.token is None
    peaks = [Measurement.load(private.folder / f"{name}.json").peak for name in "st"]
    assert peaks[0] is not None
    assert peaks[1] is not None
    assert (peaks[0].token, peaks[1].token is None) == (None, False)
    assert peaks[0].value == peaks[1].value


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"id": IDS, "text": "a"}, {"id": IDS, "text": "b"}], "*corpus texts has the id of sample 0 more than once*"),
        ([{"text": "a"}, {"id": IDS, "input_ids": [10**6]}], "*sample 1 of corpus texts holds token id 1000000, beyond*"),
    ],
)
def test_errors_name_a_sample_by_its_number(private: User, lines: list[dict[str, object]], message: str) -> None:
    private.corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = private.pytest("--maxact-no-text", model="demo", baseline="none")
    assert result.ret == 4
    result.stderr.fnmatch_lines([message])
    assert IDS not in str(result.stderr)
    assert IDS in str(private.pytest(model="demo", baseline="none").stderr)


def test_what_breaks_tells_its_kind_alone(private: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ValueError(f"cannot take {TEXT}")

    monkeypatch.setattr("pytest_maxact.plan.measure", broken)
    result = private.pytest("--maxact-no-text", model="demo", baseline="none")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["nothing was measured: measuring demo broke: ValueError"])
    assert found_in(private, str(result.stdout)) == {}


def test_it_may_stand_in_the_ini_file(private: User) -> None:
    private.pytester.makeini("[pytest]\nmaxact_no_text = true\n")
    private.pytest("--maxact-json=r.json", model="demo", baseline="none")
    assert found_in(private, "") == {}


def test_a_model_that_a_conftest_brings_is_measured_so_too(private: User) -> None:
    with (private.folder / "conftest.py").open("a") as file:
        file.write(
            "import pytest\nfrom pytest_maxact.checkpoint import find, load\n\n@pytest.fixture(scope='session')\n"
            "def maxact_model():\n    checkpoint = load(find('demo'))\n    return checkpoint.model, checkpoint.tokenizer\n"
        )
    private.pytester.makepyfile("def test_it(maxact_measurement):\n    assert maxact_measurement.peak.token is None\n")
    private.pytest("--maxact-no-text", f"--maxact-corpus={private.corpus}", baseline=None).assert_outcomes(passed=1)
    private.pytest(f"--maxact-corpus={private.corpus}", baseline=None).assert_outcomes(failed=1)
