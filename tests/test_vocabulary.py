"""A sweep over the vocabulary is called exhaustive, so it must run every token there is, once, after just what it says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedTokenizerFast

from pytest_maxact.baseline import changes
from pytest_maxact.batching import from_corpus
from pytest_maxact.checks import Tolerance, judge
from pytest_maxact.corpus import Corpus, Sample, check_tokenizer, load_corpus
from pytest_maxact.errors import CorpusError
from pytest_maxact.record import Baseline, Measurement
from pytest_maxact.report.terminal import summary
from pytest_maxact.runner import measure
from pytest_maxact.vocabulary import Vocabulary
from pytest_maxact.wording import number
from tests.conftest import tiny_model

TEMPLATE = "<bos>user: {{ messages[0]['content'] }}<eos>assistant:"


@pytest.fixture
def chatty(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    copy = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<bos>", eos_token="<eos>")
    copy.chat_template = TEMPLATE
    return copy


class WithBos:
    """A tokenizer that puts its BOS token before a text, and one after it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: str, *, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        """Token ids of a text."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return {"input_ids": [self.tokenizer.bos_token_id, *ids, self.tokenizer.eos_token_id] if add_special_tokens else ids}

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""
        return dict(self.tokenizer.get_vocab())


# --- what the tokens are


def test_without_a_tokenizer_all_that_the_model_takes_are_tokens() -> None:
    assert Vocabulary.of(None, 5, "none") == Vocabulary((0, 1, 2, 3, 4))
    with pytest.raises(CorpusError, match="--maxact-special-tokens=chat needs a tokenizer"):
        Vocabulary.of(None, 5, "chat")


def test_ids_that_the_tokenizer_lacks_are_left_out_and_told(tokenizer: PreTrainedTokenizerFast) -> None:
    known = sorted(tokenizer.get_vocab().values())
    found = Vocabulary.of(tokenizer, len(known) + 1000, "none")
    assert found.ids == tuple(known)
    assert found.notes == (
        f"1,000 of {len(known) + 1000:,} token ids are left out of the vocabulary: the tokenizer has no such tokens",
    )
    assert Vocabulary.of(tokenizer, len(known), "none").notes == ()


def test_a_hole_in_the_range_is_left_out(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "get_vocab", lambda: {"a": 0, "b": 2, "c": 2, "far": 9})
    assert Vocabulary.of(tokenizer, 4, "none").ids == (0, 2)
    monkeypatch.setattr(tokenizer, "get_vocab", lambda: {"far": 9})
    with pytest.raises(CorpusError, match="no token that the model has an embedding for"):
        Vocabulary.of(tokenizer, 4, "none")


def test_what_stands_before_a_token(tokenizer: PreTrainedTokenizerFast, chatty: PreTrainedTokenizerFast) -> None:
    size = len(tokenizer)
    assert Vocabulary.of(WithBos(tokenizer), size, "none").prefix == ()
    assert Vocabulary.of(WithBos(tokenizer), size, "tokenizer").prefix == (tokenizer.bos_token_id,)
    prefix = Vocabulary.of(chatty, size, "chat").prefix
    assert prefix[0] == tokenizer.bos_token_id
    assert tokenizer.decode(list(prefix)) == "<bos>user: "


def test_a_tokenizer_that_puts_nothing_there_is_told(tokenizer: PreTrainedTokenizerFast) -> None:
    found = Vocabulary.of(tokenizer, len(tokenizer), "tokenizer")
    assert (found.prefix, len(found.notes)) == ((), 1)
    assert "as with --maxact-special-tokens=none" in found.notes[0]


def test_a_template_that_drops_the_text_is_refused(chatty: PreTrainedTokenizerFast) -> None:
    chatty.chat_template = "<bos>hello"
    with pytest.raises(CorpusError, match="the chat template leaves out what the user says"):
        Vocabulary.of(chatty, len(chatty), "chat")


# --- the corpus


def test_every_token_runs_once_alone() -> None:
    corpus = load_corpus("vocabulary").drawn_from(Vocabulary((0, 1, 5), prefix=(7, 8)), 3)
    assert [(sample.id, sample.input_ids, sample.category) for sample in corpus.samples] == [
        ("vocabulary-0", (7, 8, 0), "vocabulary"),
        ("vocabulary-1", (7, 8, 1), "vocabulary"),
        ("vocabulary-5", (7, 8, 5), "vocabulary"),
    ]


def test_a_prefix_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"runs tokens after the 2 .* samples are cut at 2 tokens: raise --maxact-max"):
        load_corpus("vocabulary").drawn_from(Vocabulary((0,), prefix=(7, 8)), 2)


def test_the_vocabulary_is_not_cut_by_a_number_of_samples() -> None:
    corpus = load_corpus("smoke+vocabulary").first(3)
    assert [sample.corpus for sample in corpus.samples] == ["smoke"] * 3 + ["vocabulary"]
    with pytest.raises(CorpusError, match=r"smoke\+vocabulary has 16 samples, not 17"):
        load_corpus("smoke+vocabulary").first(17)
    with pytest.raises(CorpusError, match="every token there is and cannot be cut"):
        load_corpus("vocabulary").first(1)


def test_all_batches_of_a_sweep_have_one_shape_but_the_last(tokenizer: PreTrainedTokenizerFast) -> None:
    config = AutoConfig.for_model("llama", vocab_size=512)
    work = from_corpus(load_corpus("smoke+vocabulary"), tokenizer, config, 64, "none", 100)
    sweep = [batch for batch in work.batches if work.corpora[int(batch.samples[0])] == "vocabulary"]
    assert {work.corpora[sample] for batch in sweep for sample in batch.samples.tolist()} == {"vocabulary"}
    assert {batch.ids.shape for batch in sweep[:-1]} == {(100, 1)}
    assert sum(batch.tokens for batch in sweep) == len(tokenizer)


# --- the run


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def swept(model: Any, tokenizer: PreTrainedTokenizerFast) -> Measurement:
    return measure(model, tokenizer, "vocabulary", batch_tokens=100)


def test_the_sweep_holds_the_maximum_of_each_token_alone(model: Any, swept: Measurement) -> None:
    size = model.config.vocab_size
    assert (swept.corpus.samples, swept.corpus.tokens) == (size, size)
    assert [sample.position for sample in swept.samples] == [0] * size
    with torch.no_grad():
        hidden = model(torch.arange(size)[:, None], output_hidden_states=True).hidden_states[1]
    alone = hidden.abs().amax((1, 2)).float()  # after the first layer
    assert torch.equal(alone, torch.tensor(swept.hidden_peaks[0]))
    best = max(range(size), key=lambda token: swept.samples[token].peak)
    assert swept.peak is not None
    assert (swept.peak.sample, swept.peak.token_id, swept.peak.value) == (f"vocabulary-{best}", best, swept.samples[best].peak)


def test_no_text_holds_more_at_position_0(model: Any, swept: Measurement, tokenizer: PreTrainedTokenizerFast) -> None:
    texts = measure(model, tokenizer, "smoke", max_length=1)
    assert swept.peak is not None
    assert texts.peak is not None
    assert texts.peak.value <= swept.peak.value
    by_id = {sample.id: sample.peak for sample in swept.samples}
    first = [tokenizer(sample.text, add_special_tokens=False)["input_ids"][0] for sample in load_corpus("smoke").samples]
    assert [sample.peak for sample in texts.samples] == [by_id[f"vocabulary-{token}"] for token in first]


def test_of_corpora_that_are_joined_each_has_its_own_maximum(
    model: Any, swept: Measurement, tokenizer: PreTrainedTokenizerFast
) -> None:
    joined = measure(model, tokenizer, "smoke+vocabulary", samples=4, max_length=30)
    texts = measure(model, tokenizer, "smoke", samples=4, max_length=30)
    smoke, vocabulary = joined.parts
    assert texts.peak is not None
    assert swept.peak is not None
    assert (smoke.corpus, smoke.samples, smoke.tokens, smoke.value) == ("smoke", 4, texts.corpus.tokens, texts.peak.value)
    assert (smoke.sample, smoke.position, smoke.token) == (texts.peak.sample, texts.peak.position, texts.peak.token)
    assert (vocabulary.corpus, vocabulary.samples, vocabulary.value) == ("vocabulary", len(swept.samples), swept.peak.value)
    assert vocabulary.token == swept.peak.token
    assert texts.parts == swept.parts == []
    told = " ".join(" ".join(summary(joined, None)).split())
    assert f"smoke ({smoke.tokens} tokens) holds" in told
    assert f"vocabulary ({vocabulary.tokens} tokens) holds" in told


def test_maximum_judges_each_of_the_corpora_joined(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    record = measure(model, tokenizer, "smoke+vocabulary", samples=4, max_length=30)
    baseline = Baseline.of(record)
    assert [part.corpus for part in baseline.parts] == ["smoke", "vocabulary"]
    assert Baseline.model_validate_json(baseline.dumps()) == baseline
    assert not judge("maximum", record, baseline, Tolerance()).failed
    low = min(range(2), key=lambda index: record.parts[index].value)  # the one that does not hold M
    parts = list(baseline.parts)
    parts[low] = parts[low].model_copy(update={"value": parts[low].value / 2})
    verdict = judge("maximum", record, baseline.model_copy(update={"parts": parts}), Tolerance())
    assert verdict.failed
    assert f"{parts[low].corpus} alone" in verdict.summary
    assert "parts" not in Baseline.of(measure(model, tokenizer, "smoke", samples=2, max_length=8)).dumps()


def test_an_update_keeps_the_maximum_of_each_corpus(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    new = Baseline.of(measure(model, tokenizer, "smoke+vocabulary", samples=4, max_length=30))
    first, second = new.parts
    lower = first.model_copy(update={"value": first.value / 3})
    assert changes(new, new) == []
    assert changes(new.model_copy(update={"parts": [lower, second]}), new) == [
        f"smoke alone: {number(lower.value)} -> {number(first.value)}"
    ]
    assert changes(new.model_copy(update={"parts": []}), new)[0] == f"smoke alone: unknown -> {number(first.value)}"
    assert changes(new, new.model_copy(update={"parts": [second]})) == ["smoke alone: gone"]


def test_a_corpus_without_a_finite_value_is_still_one_of_them(model: Any) -> None:
    broken = tiny_model("llama")
    with torch.no_grad():
        broken.embed_tokens.weight[7] = float("nan")
    bad = tuple(Sample(f"b{n}", "x", input_ids=(7,) * (n + 1), corpus="bad") for n in range(3))
    good = tuple(Sample(f"g{n}", "x", input_ids=(n + 8,), corpus="good") for n in range(4))
    record = measure(broken, None, Corpus("bad+good", bad + good))
    first, second = record.parts
    assert (first.corpus, first.samples, first.sample) == ("bad", 3, None)
    assert math.isnan(first.value)
    assert (second.corpus, second.samples) == ("good", 4)
    assert {name: [s.id for s in samples] for name, samples in record.samples_by_corpus.items()} == {
        "bad": ["b0", "b1", "b2"],
        "good": ["g0", "g1", "g2", "g3"],
    }
    assert Measurement.model_validate_json(record.dumps()) == record


def test_files_of_one_name_are_told_apart_and_an_id_may_not_come_twice(tmp_path: Path) -> None:
    for folder, id_ in (("a", "one"), ("b", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.jsonl").write_text(json.dumps({"id": id_, "input_ids": [1]}))
    files = [str(tmp_path / folder / "same.jsonl") for folder in "ab"]
    assert [sample.corpus for sample in load_corpus("+".join(files)).samples] == files
    (tmp_path / "own.jsonl").write_text(json.dumps({"id": "vocabulary-1", "input_ids": [1]}))
    with pytest.raises(CorpusError, match="has the id 'vocabulary-1' more than once"):
        load_corpus(f"{tmp_path / 'own.jsonl'}+vocabulary").drawn_from(Vocabulary((0, 1)), 9)
    (tmp_path / "vocabulary.jsonl").write_text(json.dumps({"id": "mine", "input_ids": [1]}))
    assert load_corpus(str(tmp_path / "vocabulary.jsonl")).id == "vocabulary.jsonl"  # which is no sweep


def test_what_stress_draws_stands_after_the_prefix_too(tokenizer: PreTrainedTokenizerFast) -> None:
    prefixed = Vocabulary.of(WithBos(tokenizer), len(tokenizer), "tokenizer")
    drawn = [sample for sample in load_corpus("stress").drawn_from(prefixed, 50).samples if sample.input_ids is not None]
    plain = load_corpus("stress").drawn_from(Vocabulary(prefixed.ids), 50)
    assert len(drawn) == 32
    assert {sample.input_ids[0] for sample in drawn if sample.input_ids} == {tokenizer.bos_token_id}
    bare = {sample.id: sample.input_ids or () for sample in plain.samples}
    assert all((sample.input_ids or ())[1:] == bare[sample.id][:49] for sample in drawn)


def test_a_template_that_fails_is_one_line(chatty: PreTrainedTokenizerFast) -> None:
    chatty.chat_template = "{{ raise_exception('not like this') }}"
    with pytest.raises(CorpusError, match=r"the chat template cannot be used \(not like this\): use --maxact-special-tokens"):
        check_tokenizer(load_corpus("vocabulary"), chatty, "chat")


def test_tokens_beyond_the_models_rows_are_told(tokenizer: PreTrainedTokenizerFast) -> None:
    found = Vocabulary.of(tokenizer, 10, "none")
    assert len(found.ids) == 10
    more = len(set(tokenizer.get_vocab().values())) - 10
    assert found.notes == (f"{more:,} tokens are left out of the vocabulary: the model has no embedding of them",)


def test_notes_of_the_vocabulary_stand_in_the_record(tokenizer: PreTrainedTokenizerFast) -> None:
    larger = tiny_model("llama", vocab_size=len(tokenizer) + 7)
    record = measure(larger, tokenizer, "vocabulary")
    assert record.corpus.samples == len(tokenizer)
    assert any(note.startswith("7 of ") for note in record.notes)
    alone = measure(larger, None, "vocabulary")
    assert alone.corpus.samples == len(tokenizer) + 7


def test_ids_may_be_swept_after_a_prefix(model: Any, chatty: PreTrainedTokenizerFast) -> None:
    record = measure(model, chatty, Corpus("v", load_corpus("vocabulary").samples), special_tokens="chat")
    prefix = Vocabulary.of(chatty, model.config.vocab_size, "chat").prefix
    assert {sample.tokens for sample in record.samples} == {len(prefix) + 1}
    with pytest.raises(CorpusError, match="raise --maxact-max-length"):
        measure(model, chatty, "vocabulary", special_tokens="chat", max_length=len(prefix))


def test_an_ordinary_sample_is_not_touched() -> None:
    plain = Corpus("c", (Sample("a", "x", text="t"),))
    assert not plain.drawn
    assert plain.drawn_from(Vocabulary((0,)), 9) == plain
