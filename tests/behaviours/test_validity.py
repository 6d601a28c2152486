"""How far M can be trusted, as a user meets it: the vocabulary, policies of special tokens, the word on saturation."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from pytest_maxact.record import Baseline, Measurement
from tests.behaviours.conftest import GREEN, User


def swept(user: User, corpus: str, *args: str) -> pytest.RunResult:
    return user.pytest(f"--maxact-model={user.checkpoint}", f"--maxact-corpus={corpus}", *args, baseline=None)


def test_the_vocabulary_runs_beside_a_corpus(quick_user: User) -> None:
    args = ["--maxact-samples=3", "--maxact-max-length=20", "--maxact-baseline=none", "--maxact-json=r.json"]
    result = swept(quick_user, "smoke+vocabulary", *args)
    assert result.ret == 0
    record = Measurement.load(quick_user.folder / "r.json")
    assert [part.corpus for part in record.parts] == ["smoke", "vocabulary"]
    assert record.corpus.samples == 3 + record.parts[1].samples
    result.stdout.fnmatch_lines(["*smoke (* tokens) holds *"])


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--maxact-samples=5",), "corpus vocabulary is every token there is and cannot be cut: leave out --maxact-samples"),
        (("--maxact-special-tokens=chat",), "the tokenizer has no chat template: *"),
    ],
)
def test_what_cannot_be_swept_is_status_4(quick_user: User, args: tuple[str, ...], told: str) -> None:
    result = swept(quick_user, "vocabulary", *args)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: {told}"])


def test_each_policy_of_special_tokens_is_measured_and_the_first_is_judged(quick_user: User) -> None:
    args = ["--maxact-special-tokens=none", "--maxact-special-tokens=tokenizer", "--maxact-json=r.json"]
    result = quick_user.pytest(*args)
    assert quick_user.seen == GREEN
    record = Measurement.load(quick_user.folder / "r.json")
    assert record.peak is not None
    assert [policy.special_tokens for policy in record.policies] == ["none", "tokenizer"]
    assert record.policies[0].value == record.peak.value == record.policies[1].value  # this tokenizer adds nothing
    result.stdout.fnmatch_lines(["*M by special tokens: none * at *; tokenizer * (1.00x) at"])
    kept = quick_user.records
    assert quick_user.pytest(*args).ret == 0
    assert quick_user.records == kept  # reused
    assert "policies" not in Baseline.of(record).dumps()


def test_m_moves_where_the_tokenizer_adds_a_token(quick_user: User, checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "with-bos"))
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", backend.token_to_id("<bos>"))])
    backend.save(str(folder / "tokenizer.json"))
    args = ["--maxact-special-tokens=none", "--maxact-special-tokens=tokenizer", "--maxact-json=r.json"]
    result = quick_user.pytest(*args, model=folder, baseline="none")
    assert result.ret == 0
    record = Measurement.load(quick_user.folder / "r.json")
    none, tokenizer = record.policies
    assert tokenizer.tokens == none.tokens + 2  # a token for each of two samples
    assert tokenizer.value != none.value
    alone = quick_user.pytest("--maxact-special-tokens=tokenizer", "--maxact-json=a.json", model=folder, baseline="none")
    assert alone.ret == 0
    peak = Measurement.load(quick_user.folder / "a.json").peak
    assert peak is not None
    assert (tokenizer.value, tokenizer.token, tokenizer.position) == (peak.value, peak.token, peak.position)


def test_an_overridden_model_is_measured_under_each_policy(quick_user: User) -> None:
    quick_user.pytester.makeconftest(
        f"""
        import pytest
        from pytest_maxact.checkpoint import find, load

        @pytest.fixture(scope="session")
        def maxact_model():
            checkpoint = load(find({str(quick_user.checkpoint)!r}))
            return checkpoint.model, checkpoint.tokenizer
        """
    )
    quick_user.pytester.makepyfile(
        """
        def test_mine(maxact_measurement):
            assert [policy.special_tokens for policy in maxact_measurement.policies] == ["none", "tokenizer"]
        """
    )
    args = ["--maxact-special-tokens=none", "--maxact-special-tokens=tokenizer", f"--maxact-corpus={quick_user.corpus}"]
    assert quick_user.pytest(*args, baseline=None).ret == 0


def test_an_empty_list_of_policies_is_status_4(quick_user: User) -> None:
    Path(quick_user.folder, "pytest.ini").write_text("[pytest]\nmaxact_special_tokens = ,\n")
    result = quick_user.pytest()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: maxact_special_tokens names no policy: *"])


def test_one_policy_says_nothing_of_others(quick_user: User) -> None:
    result = quick_user.pytest("--maxact-special-tokens=none", "--maxact-special-tokens=none", "--maxact-json=r.json")
    assert Measurement.load(quick_user.folder / "r.json").policies == []
    result.stdout.no_fnmatch_line("*M by special tokens*")


def test_policies_may_stand_in_an_ini_file(quick_user: User) -> None:
    Path(quick_user.folder, "pytest.ini").write_text("[pytest]\nmaxact_special_tokens = none, tokenizer\n")
    assert quick_user.pytest("--maxact-json=r.json").ret == 0
    assert len(Measurement.load(quick_user.folder / "r.json").policies) == 2
