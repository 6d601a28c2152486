"""Users' own tests: the session fixtures, what a marker names, and models that a conftest hands over."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.behaviours.conftest import GREEN, User

ASKS_FOR_ALL = """
    def test_own(maxact_model, maxact_corpus, maxact_measurement, maxact_baseline):
        model, tokenizer = maxact_model
        assert maxact_measurement.peak.value == maxact_baseline.peak.value > 0
        assert maxact_measurement.model.parameters == sum(p.numel() for p in model.parameters())
        assert tokenizer("text")["input_ids"]
        assert len(maxact_corpus.samples) == maxact_measurement.corpus.samples == 2
"""
COMPARES = """
    from pytest_maxact import compare

    def test_own(maxact_measurement, maxact_baseline):
        for verdict in compare(maxact_measurement, maxact_baseline):
            assert not verdict.failed, str(verdict)
"""
TINY = """
    import pytest

    @pytest.fixture(scope="session")
    def maxact_model():
        from transformers import LlamaConfig, LlamaModel
        sizes = dict(vocab_size=512, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
        return {value}
"""
MODEL = "LlamaModel(LlamaConfig(**sizes))"


def test_the_fixtures_are_the_sessions_own(quick_user: User) -> None:
    quick_user.pytester.makepyfile(ASKS_FOR_ALL)
    result = quick_user.pytest()
    assert result.ret == 0
    assert quick_user.seen == GREEN | {"test_the_fixtures_are_the_sessions_own::test_own": "passed"}
    assert len(quick_user.records) == 1
    assert result.stdout.str().count("loading and measuring") == 1


def test_the_fixtures_work_where_paths_leave_the_suite_out(quick_user: User) -> None:
    path = quick_user.pytester.makepyfile(ASKS_FOR_ALL)
    result = quick_user.pytest(path)
    assert result.ret == 0
    assert len(quick_user.seen) == 1
    result.stdout.fnmatch_lines(["*= maximum activations =*"])


def test_without_a_model_they_skip_with_the_reason(quick_user: User) -> None:
    quick_user.pytester.makepyfile(ASKS_FOR_ALL)
    result = quick_user.pytest("-rs", baseline=None)
    assert result.ret == 0
    assert set(quick_user.seen.values()) == {"skipped"}
    result.stdout.fnmatch_lines(
        ["SKIPPED * no checkpoint was named: add --maxact-model=ID, or override the fixture maxact_model"]
    )


def test_without_a_baseline_wanted_its_fixture_skips_and_without_one_there_it_fails(quick_user: User) -> None:
    path = quick_user.pytester.makepyfile("def test_own(maxact_baseline):\n    pass\n")
    quick_user.pytest(path, "-rs", baseline="none")
    assert list(quick_user.seen.values()) == ["skipped"]
    result = quick_user.pytest(path, baseline="auto")
    assert list(quick_user.seen.values()) == ["error"]
    result.stdout.fnmatch_lines(["no baseline for tiny: looked for *tiny.json; write it with pytest * --maxact-update, *"])


def test_a_verdict_says_what_the_suite_says(quick_user: User) -> None:
    path = quick_user.pytester.makepyfile(COMPARES)
    result = quick_user.pytest(path, baseline="red")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["E * M = * at *: 2.00x the baseline *, tolerance +10%", "E * token * at position * of sample *"]
    )


def test_a_marker_names_another_corpus(quick_user: User) -> None:
    (quick_user.folder / "more.jsonl").write_text('{"text": "Only one."}\n')
    quick_user.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.maxact(corpus="more.jsonl")
        def test_marked(maxact_measurement):
            assert maxact_measurement.corpus.samples == 1

        def test_plain(maxact_measurement):
            assert maxact_measurement.corpus.samples == 2

        @pytest.mark.maxact(corpus="more.jsonl")
        class TestAll:
            def test_inherits(self, maxact_measurement, maxact_corpus):
                assert maxact_measurement.corpus.samples == len(maxact_corpus.samples) == 1
        """
    )
    result = quick_user.pytest()
    assert result.ret == 0
    name = "test_a_marker_names_another_corpus"
    own = {f"{name}::test_marked", f"{name}::test_plain", f"{name}.TestAll::test_inherits"}
    assert quick_user.seen == GREEN | dict.fromkeys(own, "passed")  # the marker adds nothing to a test's name
    assert len(quick_user.records) == 2


def test_a_marker_names_a_model_where_the_command_line_names_none(quick_user: User) -> None:
    quick_user.pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.maxact(model={str(quick_user.checkpoint)!r}, corpus="texts.jsonl")
        def test_marked(maxact_measurement, maxact_model):
            assert maxact_measurement.model.id == "tiny"
            assert maxact_model.tokenizer is not None
        """
    )
    result = quick_user.pytest(baseline=None)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*= maximum activations =*", "M = *"])


@pytest.mark.parametrize(
    ("marker", "problem"),
    [("'demo'", "'demo'"), ("modle='demo'", "modle"), ("corpus=7", "corpus=7"), ("model=''", "model=''")],
)
def test_a_marker_that_cannot_be_meant_is_refused(quick_user: User, marker: str, problem: str) -> None:
    quick_user.pytester.makepyfile(f"import pytest\n@pytest.mark.maxact({marker})\ndef test_own(maxact_model):\n    pass\n")
    result = quick_user.pytest(baseline=None)
    assert result.ret == 2
    result.stdout.fnmatch_lines([f"*the marker maxact takes model='...' and corpus='...', not {problem}"])


def test_a_marked_model_that_is_not_there_is_one_line(quick_user: User) -> None:
    quick_user.pytester.makepyfile(
        "import pytest\n@pytest.mark.maxact(model='no/where/else')\ndef test_own(maxact_model):\n    pass\n"
    )
    result = quick_user.pytest(baseline=None)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["no checkpoint no/where/else: looked for a folder or .gguf file at *"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize("value", [MODEL, f"({MODEL}, None)"], ids=["a model", "a model and its tokenizer"])
def test_an_overridden_model_is_measured_without_the_option(quick_user: User, value: str) -> None:
    quick_user.pytester.makeconftest(TINY.format(value=value))
    (quick_user.folder / "ids.jsonl").write_text(json.dumps({"input_ids": [1, 2, 3]}) + "\n")
    quick_user.pytester.makepyfile(
        """
        def test_own(maxact_measurement):
            assert maxact_measurement.model.id == "LlamaModel"
            assert maxact_measurement.model.layers == 2
            assert maxact_measurement.corpus.tokens == 3
        """
    )
    result = quick_user.pytest("--maxact-corpus=ids.jsonl", baseline=None)
    assert result.ret == 0
    assert list(quick_user.seen.values()) == ["passed"]


def test_an_overridden_model_that_cannot_be_measured_is_one_line(quick_user: User) -> None:
    quick_user.pytester.makeconftest(TINY.format(value="(LlamaModel(LlamaConfig(**sizes)), None)"))
    quick_user.pytester.makepyfile("def test_own(maxact_measurement):\n    pass\n")
    result = quick_user.pytest(baseline=None)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["corpus core holds texts, and the model came without a tokenizer: *"])


def test_a_marked_model_beside_an_overridden_one_is_refused(quick_user: User) -> None:
    quick_user.pytester.makeconftest(TINY.format(value=MODEL))
    quick_user.pytester.makepyfile(
        "import pytest\n@pytest.mark.maxact(model='demo')\ndef test_own(maxact_measurement):\n    pass\n"
    )
    result = quick_user.pytest(baseline=None)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["the marker maxact names a model, and maxact_model is overridden here: drop one of them"])


def test_an_overridden_corpus_is_measured(quick_user: User) -> None:
    quick_user.pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def maxact_corpus():
            from pytest_maxact.corpus import Corpus, Sample
            return Corpus("mine", (Sample("a", "x", text="Mine alone."),))
        """
    )
    path = quick_user.pytester.makepyfile(
        "def test_own(maxact_measurement):\n    assert maxact_measurement.corpus.id == 'mine'\n"
    )
    assert quick_user.pytest(path).ret == 0


def test_an_update_is_what_the_same_session_compares_with(quick_user: User) -> None:
    quick_user.pytester.makepyfile(COMPARES)
    result = quick_user.pytest("--maxact-update", baseline="red")
    assert result.ret == 0
    assert set(quick_user.seen.values()) == {"passed"}
    result.stdout.fnmatch_lines(["baseline */baselines/red.json was rewritten"])


def test_a_test_that_changes_the_folder_changes_no_name(quick_user: User) -> None:
    shutil.copytree(quick_user.checkpoint, quick_user.folder / "ckpt")
    quick_user.pytester.makepyfile(
        """
        def test_moves(tmp_path, monkeypatch):
            import os
            os.chdir(tmp_path)

        def test_own(maxact_measurement):
            assert maxact_measurement.model.id == "ckpt"
        """
    )
    result = quick_user.pytest(
        "--maxact-model=ckpt", "--maxact-corpus=texts.jsonl", "--maxact-baseline=new.json", "--maxact-update", baseline=None
    )
    assert result.ret == 0
    assert (quick_user.folder / "new.json").is_file()


def test_a_marked_test_case_is_refused_and_no_other_model_measured_for_it(quick_user: User) -> None:
    quick_user.pytester.makepyfile(
        """
        import unittest
        import pytest

        @pytest.mark.maxact(model="demo")
        class TestOld(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def take(self, maxact_measurement):
                self.record = maxact_measurement

            def test_own(self):
                assert self.record.model.id == "demo"
        """
    )
    result = quick_user.pytest("-k", "test_own")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["the marker maxact does not reach a unittest.TestCase: make it a plain class or function"])
    assert quick_user.records == []


def test_an_overridden_model_that_is_none_is_one_line(quick_user: User) -> None:
    quick_user.pytester.makeconftest(TINY.format(value="'demo'"))
    quick_user.pytester.makepyfile("def test_own(maxact_measurement):\n    pass\n")
    result = quick_user.pytest(baseline=None)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["maxact_model gave str: give a module, or a module and its tokenizer"])


def test_two_workers_share_the_fixtures_measurement(user: User) -> None:
    pytest.importorskip("xdist")
    user.pytester.makepyfile(**{f"test_{name}": ASKS_FOR_ALL for name in "abcd"})
    result = user.pytest("-n2")
    assert result.ret == 0
    assert len(user.seen) == len(GREEN) + 4
    assert set(user.seen.values()) == {"passed"}
    assert len(user.records) == 1


def test_the_fixtures_are_listed_with_what_they_are(user: User) -> None:
    result = user.pytest("--fixtures", baseline=None)
    for name in ("model", "corpus", "measurement", "baseline"):
        result.stdout.fnmatch_lines([f"maxact_{name} [[]session scope[]] -- *", "    The *"])
