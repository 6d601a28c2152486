"""A figure is comparable only over the same tokens: the corpus, its order, digest, subsets and batches are pinned here."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from pytest_maxact import corpus_sources
from pytest_maxact.corpus import (
    SMOKE_SAMPLES,
    Corpus,
    Sample,
    TokenSequence,
    bundled,
    check_vocabulary,
    deal,
    load_corpus,
    tokenize,
)
from pytest_maxact.errors import CorpusError
from pytest_maxact.prompts import SpecialTokens

TINY = Corpus("tiny", (Sample("a", "prose", text="Grüße"), Sample("b", "code", input_ids=(5, 6))))


def written(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def corpus_of(categories: list[str]) -> Corpus:
    return Corpus("made", tuple(Sample(str(i), category, text="x") for i, category in enumerate(categories)))


# --- what is bundled


def test_core_is_96_varied_samples_of_at_least_nine_categories() -> None:
    core = load_corpus("core")
    assert core.id == "core"
    assert len(core.samples) == 96
    assert len(core.categories) >= 9
    assert min(core.categories.values()) >= 5
    assert len({sample.id for sample in core.samples}) == 96
    assert len({sample.text for sample in core.samples}) == 96
    assert all(sample.id.strip() and sample.category.strip() and sample.text for sample in core.samples)
    # The first token often holds the peak, so a corpus whose samples all begin alike would show one token's figures.
    first = Counter(sample.text[0] for sample in core.samples if sample.text)
    assert len(first) >= 48
    assert max(first.values()) <= 4


def test_smoke_is_the_first_16_of_core_with_every_category() -> None:
    core, smoke = load_corpus("core"), load_corpus("smoke")
    assert smoke.id == "smoke"
    assert len(smoke.samples) == SMOKE_SAMPLES == 16
    assert smoke.samples == core.first(16).samples
    assert smoke.categories.keys() == core.categories.keys()


def test_bundled_names_are_those_that_load() -> None:
    assert bundled() == ["core", "diverse-5k", "images", "smoke", "stress", "vocabulary"]
    assert all(load_corpus(name).samples for name in ("core", "smoke"))  # images need a library, and have tests of their own


# --- first(n)


def test_every_count_of_core_keeps_the_categories_in_proportion() -> None:
    core = load_corpus("core")
    for count in range(len(core.samples) + 1):
        chosen = core.first(count).categories
        assert sum(chosen.values()) == count
        for category, times in core.categories.items():
            assert abs(chosen.get(category, 0) - count * times / len(core.samples)) <= 1, (count, category)


@given(st.lists(st.sampled_from("abcde"), max_size=40))
def test_subsets_are_nested_and_in_corpus_order(categories: list[str]) -> None:
    corpus = corpus_of(categories)
    smaller: set[str] = set()
    for count in range(len(categories) + 1):
        ids = [sample.id for sample in corpus.first(count).samples]
        assert len(ids) == count
        assert ids == sorted(ids, key=int)
        assert smaller <= set(ids)
        smaller = set(ids)
    assert corpus.first(len(categories)) == corpus


@given(st.integers(1, 8), st.integers(1, 5), st.randoms(use_true_random=False))
def test_categories_of_one_size_are_never_more_than_one_sample_apart(size: int, kinds: int, random: Any) -> None:
    categories = [kind for kind in "abcde"[:kinds] for _ in range(size)]
    random.shuffle(categories)
    for count in range(len(categories) + 1):
        chosen = [corpus_of(categories).first(count).categories.get(kind, 0) for kind in "abcde"[:kinds]]
        assert max(chosen) - min(chosen) <= 1


def test_the_first_samples_are_these_by_hand() -> None:
    # a stands at 1/8, 3/8, 5/8, 7/8 of the way, b at 1/4, 3/4: the order is a0 b4 a1 a2 b5 a3.
    corpus = corpus_of(["a", "a", "a", "a", "b", "b"])
    orders = [[sample.id for sample in corpus.first(count).samples] for count in range(1, 6)]
    assert orders == [["0"], ["0", "4"], ["0", "1", "4"], ["0", "1", "2", "4"], ["0", "1", "2", "4", "5"]]
    # The only b stands half way, before the third a.
    assert [sample.id for sample in corpus_of(["a", "a", "a", "a", "b"]).first(3).samples] == ["0", "1", "4"]


def test_more_samples_than_there_are_is_an_error_with_both_numbers() -> None:
    with pytest.raises(CorpusError, match="corpus made has 2 samples, not 3"):
        corpus_of(["a", "b"]).first(3)


# --- the digest


def test_the_digest_is_the_sha256_of_one_json_list_a_sample() -> None:
    by_hand = '["a", "prose", "Grüße", null]\n["b", "code", null, [5, 6]]\n'
    assert TINY.digest == hashlib.sha256(by_hand.encode("utf-8")).hexdigest()
    # A literal as well: every stored baseline holds one, so even a change that both sides share must be noticed.
    assert TINY.digest == "64081ea906c83d9fc3ae9f8c151583efb9967a25be23098cc74df523a6f85420"


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param((Sample("a", "prose", text="Grüsse"), TINY.samples[1]), id="text"),
        pytest.param((Sample("A", "prose", text="Grüße"), TINY.samples[1]), id="id"),
        pytest.param((Sample("a", "verse", text="Grüße"), TINY.samples[1]), id="category"),
        pytest.param((TINY.samples[0], Sample("b", "code", input_ids=(6, 5))), id="token ids"),
        pytest.param((TINY.samples[0], Sample("b", "code", text="[5, 6]")), id="ids or the same as text"),
        pytest.param(TINY.samples[::-1], id="order"),
        pytest.param(TINY.samples[:1], id="one sample less"),
    ],
)
def test_any_change_of_the_samples_changes_the_digest(samples: tuple[Sample, ...]) -> None:
    assert Corpus("tiny", samples).digest != TINY.digest


def test_the_name_of_a_corpus_is_not_in_its_digest() -> None:
    assert Corpus("other", TINY.samples).digest == TINY.digest


# --- files


def test_a_file_gives_its_samples_with_defaults_for_what_it_leaves_out(tmp_path: Path) -> None:
    file = written(
        tmp_path / "mine.jsonl",
        '{"text": "one"}',
        "",
        "   ",
        '{"id": "x", "category": "c", "text": "line\\u2028separator"}',
        '{"input_ids": [3, 0, 3], "note": "ignored"}',
    )
    assert load_corpus(file) == Corpus(
        "mine",
        (
            Sample("line-1", "uncategorized", text="one"),
            Sample("x", "c", text="line\u2028separator"),
            Sample("line-5", "uncategorized", input_ids=(3, 0, 3)),
        ),
    )


def test_a_raw_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.jsonl", '{"text": "a\u2028b\u0085c"}', '{"text": "d"}\r')
    assert [sample.text for sample in load_corpus(file).samples] == ["a\u2028b\u0085c", "d"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "is not JSON: Expecting property name"),
        ("[" * 100_000, "is not JSON"),
        ('{"input_ids": [' + "9" * 5_000 + "]}", "is not JSON"),
        ("7", 'has no usable key: it needs either "text" or "input_ids"'),
        ("{}", 'has no usable key: it needs either "text" or "input_ids"'),
        ('{"text": "a", "input_ids": [1]}', "has no usable key"),
        ('{"text": ""}', '"text" must be a string that is not empty'),
        ('{"text": 5}', '"text" must be a string that is not empty'),
        ('{"text": "half a pair \\ud800"}', "surrogates not allowed"),
        ('{"id": "\\udfff", "text": "a"}', "surrogates not allowed"),
        ('{"text": "a", "id": 5}', '"id" and "category" must be strings'),
        ('{"text": "a", "category": null}', '"id" and "category" must be strings'),
        ('{"input_ids": []}', '"input_ids" must be a list of whole numbers from 0'),
        ('{"input_ids": 5}', '"input_ids" must be a list'),
        ('{"input_ids": [1, -1]}', '"input_ids" must be a list'),
        ('{"input_ids": [1.0]}', '"input_ids" must be a list'),
        ('{"input_ids": [true]}', '"input_ids" must be a list'),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, problem: str) -> None:
    file = written(tmp_path / "mine.jsonl", '{"text": "fine"}', "", line, '{"text": "fine, too"}')
    with pytest.raises(CorpusError) as caught:
        load_corpus(file)
    message = str(caught.value)
    assert message.startswith(f"corpus file {file}, line 3")
    assert problem in message
    assert "\n" not in message
    assert len(message) < 400


def test_a_text_file_gives_a_sample_a_line_and_leaves_empty_ones_out(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes('\ufefffirst  \r\n\n \t\n{"text": "no JSON"}\n  in\u2028dented'.encode())
    assert load_corpus(str(file)) == Corpus(
        "notes",
        (
            Sample("notes-1", "uncategorized", text="first  "),
            Sample("notes-4", "uncategorized", text='{"text": "no JSON"}'),
            Sample("notes-5", "uncategorized", text="  in\u2028dented"),
        ),
    )
    other = written(tmp_path / "others.txt", "one")
    assert len(load_corpus(f"{file}+{other}").samples) == 4  # ids of their own, so that two files can be joined
    file.write_bytes(b"\n \n")
    with pytest.raises(CorpusError, match=f"corpus file {file} has no samples"):
        load_corpus(str(file))
    file.write_bytes(b"\xff")
    with pytest.raises(CorpusError, match=f"corpus file {file} cannot be read as UTF-8 text"):
        load_corpus(str(file))


def parquet(path: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_a_parquet_file_gives_its_rows_with_defaults_for_what_they_leave_out(tmp_path: Path) -> None:
    file = parquet(tmp_path / "mine.parquet", id=["x", None], text=["one", "tw\0o"], category=["c", None], length=[3, 4])
    assert load_corpus(file) == Corpus("mine", (Sample("x", "c", text="one"), Sample("mine-2", "uncategorized", text="tw\0o")))
    blank = parquet(tmp_path / "blank.parquet", text=["one", "", " \n", "two"])  # as many data sets have between paragraphs
    assert [sample.id for sample in load_corpus(blank).samples] == ["blank-1", "blank-4"]
    # Labels that are no strings are not used; neither is any other column.
    numbered = parquet(tmp_path / "numbered.parquet", id=[7], category=[1.5], input_ids=[[3, 0, 3]], source=["web"])
    assert load_corpus(numbered).samples == (Sample("numbered-1", "uncategorized", input_ids=(3, 0, 3)),)
    encoded = pa.array(["c"]).dictionary_encode()
    only = parquet(tmp_path / "only.parquet", id=["x"], category=encoded, prompt=pa.array(["one"], pa.large_string()))
    assert load_corpus(f"{only}+{numbered}").samples[0] == Sample("x", "c", text="one", corpus="only")


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"text": ["fine", None]}, 'FILE, row 2: "text" must be a string that is not empty'),
        ({"input_ids": [[1], []]}, 'FILE, row 2: "input_ids" must be a list of whole numbers from 0, not empty'),
        ({"input_ids": [[1], [2, -1]]}, 'FILE, row 2: "input_ids" must be a list'),
        ({"input_ids": [[1], [None]]}, 'FILE, row 2: "input_ids" must be a list'),
        ({"input_ids": [[1], None]}, 'FILE, row 2: "input_ids" must be a list'),
        ({"text": pa.array([], pa.string())}, "FILE has no samples"),
        ({"text": [5]}, "column text of FILE holds int64, neither strings nor lists of whole numbers"),
        ({"input_ids": [[1.5]]}, "column input_ids of FILE holds list<"),
        ({"text": ["a"], "input_ids": [[1]]}, "FILE has no single column of texts among text, input_ids: name the one with"),
        ({"q": ["a"], "a": ["b"], "n": [1]}, "FILE has no single column of texts among q, a, n: name the one with"),
        ({"id": ["a"]}, "FILE has no single column of texts among id: name the one with the samples"),
    ],
)
def test_a_bad_parquet_file_is_named_by_row_or_column(tmp_path: Path, columns: dict[str, Any], problem: str) -> None:
    file = parquet(tmp_path / "mine.parquet", **columns)
    with pytest.raises(CorpusError) as caught:
        load_corpus(file)
    assert str(caught.value).startswith(problem.replace("FILE", f"corpus file {file}"))
    assert "\n" not in str(caught.value)


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.parquet", '{"text": "JSON"}')
    with pytest.raises(CorpusError, match=f"corpus file {file} cannot be read as parquet: "):
        load_corpus(file)
    whole = parquet(tmp_path / "whole.parquet", text=["one"])
    (tmp_path / "cut.parquet").write_bytes(Path(whole).read_bytes()[:-20])
    with pytest.raises(CorpusError, match="cannot be read as parquet: "):
        load_corpus(str(tmp_path / "cut.parquet"))


def test_a_missing_library_is_named_with_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = 'needs the library datasets from version 4: `pip install "datasets>=4"`$'
    file = parquet(tmp_path / "mine.parquet", text=["one"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(CorpusError, match=f"^reading mine.parquet {needs}"):
        load_corpus(file)
    monkeypatch.setattr(corpus_sources, "version", lambda library: "3.6.0")  # which would run a repository's script
    with pytest.raises(CorpusError, match=f"^corpus hf:acme/texts {needs}"):
        load_corpus("hf:acme/texts")
    monkeypatch.setattr(corpus_sources, "version", lambda library: version(f"no-{library}"))
    with pytest.raises(CorpusError, match=f"^corpus hf:acme/texts {needs}"):
        load_corpus("hf:acme/texts")


@pytest.mark.parametrize(
    "name", ["hf:", "hf:a/b/c", "hf:a/b@", "hf:a/b?split=", "hf:a/b?shard=1", "hf:a/b?split", "hf:a/b?split=train&", "hf:a b"]
)
def test_a_name_for_the_hub_that_is_not_written_so_is_refused_with_the_way_to_write_it(name: str) -> None:
    with pytest.raises(CorpusError) as caught:
        load_corpus(name)
    assert str(caught.value).startswith(f"corpus {name} is not written as hf:org/name@revision?split=train&column=text&config=")


def test_an_id_that_occurs_twice_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.jsonl", '{"id": "x", "text": "a"}', '{"id": "x", "text": "b"}')
    with pytest.raises(CorpusError, match="has the id 'x' more than once"):
        load_corpus(file)


def test_files_without_samples_without_text_and_without_existence_are_refused(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty.jsonl", tmp_path / "binary.jsonl"
    empty.write_text("\n\n")
    binary.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(CorpusError, match=f"corpus file {empty} has no samples"):
        load_corpus(str(empty))
    with pytest.raises(CorpusError, match=f"corpus file {binary} cannot be read as UTF-8 text"):
        load_corpus(str(binary))
    with pytest.raises(
        CorpusError,
        match=rf"was not found \(looked at {tmp_path}/no\): name a JSON Lines, .txt or .parquet file, .*or one of .*core",
    ):
        load_corpus(str(tmp_path / "no"))
    with pytest.raises(CorpusError, match="is a folder"):
        load_corpus(str(tmp_path))


def test_plus_joins_corpora_in_order_and_refuses_shared_ids(tmp_path: Path) -> None:
    one = written(tmp_path / "one.jsonl", '{"id": "z", "text": "a"}')
    two = written(tmp_path / "two.jsonl", '{"id": "y", "input_ids": [1]}')
    joined = load_corpus(f"{one}+smoke+{two}")
    assert joined.id == "one+smoke+two"
    assert [sample.id for sample in joined.samples] == ["z", *(sample.id for sample in load_corpus("smoke").samples), "y"]
    assert joined.digest == Corpus("", joined.samples).digest
    with pytest.raises(CorpusError, match=r"corpus smoke\+core has the id '.*' more than once"):
        load_corpus("smoke+core")
    with pytest.raises(CorpusError, match="corpus nowhere was not found"):
        load_corpus("smoke+nowhere")


# --- tokens


@pytest.fixture
def chatty(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The shared tokenizer with a chat template, and with a token that it puts in front by itself."""
    from tokenizers.processors import TemplateProcessing

    copy = PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str()),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
    )
    copy.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    copy.chat_template = "{% for m in messages %}<eos>{{ m['role'] }}:{{ m['content'] }}<eos>{% endfor %}"
    return copy


@pytest.mark.parametrize(
    ("policy", "around"), [("none", ("", "")), ("tokenizer", ("<bos>", "")), ("chat", ("<eos>user:", "<eos>"))]
)
def test_a_special_token_policy_puts_this_around_a_text(
    chatty: PreTrainedTokenizerFast, policy: SpecialTokens, around: tuple[str, str]
) -> None:
    (sequence,) = tokenize(Corpus("c", (Sample("a", "x", text="some words"),)), chatty, policy, 100)
    assert chatty.decode(list(sequence.ids)) == f"{around[0]}some words{around[1]}"
    assert sequence.index == 0


@pytest.mark.parametrize("policy", ["none", "tokenizer", "chat"])
def test_ready_ids_are_taken_as_they_are_and_all_is_cut_at_its_end(
    chatty: PreTrainedTokenizerFast, policy: SpecialTokens
) -> None:
    corpus = Corpus("c", (Sample("a", "x", input_ids=(1, 2, 0, 1)), Sample("b", "x", text="some words that are long")))
    whole, short = tokenize(corpus, chatty, policy, 100), tokenize(corpus, chatty, policy, 3)
    assert whole[0].ids == (1, 2, 0, 1)
    assert [sequence.index for sequence in whole] == [0, 1]
    assert [sequence.ids for sequence in short] == [sequence.ids[:3] for sequence in whole]
    assert len(whole[1].ids) > 3


def test_ids_need_no_tokenizer_and_texts_do() -> None:
    assert tokenize(Corpus("c", (Sample("a", "x", input_ids=(1, 2)),)), None, "none", 9) == [TokenSequence(0, (1, 2))]
    with pytest.raises(CorpusError, match="corpus tiny holds texts, and the model came without a tokenizer"):
        tokenize(TINY, None, "none", 9)


def test_what_a_tokenizer_cannot_do_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(CorpusError, match="has no chat template: use --maxact-special-tokens=none"):
        tokenize(TINY, tokenizer, "chat", 9)

    def silent(text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [7] if text == "kept" else []}

    corpus = Corpus("c", (Sample("a", "x", text="kept"), Sample("b", "x", text="lost")))
    with pytest.raises(CorpusError, match="sample b of corpus c has no tokens"):
        tokenize(corpus, silent, "none", 9)


def test_an_id_beyond_the_vocabulary_is_named_and_the_last_one_inside_is_fine() -> None:
    corpus = Corpus("c", (Sample("a", "x", text="t"), Sample("b", "x", input_ids=(0, 511)), Sample("d", "x", input_ids=(512,))))
    with pytest.raises(CorpusError, match="sample d of corpus c holds token id 512, beyond the model's vocabulary of 512"):
        check_vocabulary(corpus, 512)
    check_vocabulary(corpus, 513)


# --- batches


@given(st.lists(st.integers(1, 12), max_size=30), st.integers(1, 60))
def test_dealing_keeps_every_sequence_once_the_budget_and_corpus_order(lengths: list[int], budget: int) -> None:
    sequences = [TokenSequence(index, tuple(range(length))) for index, length in enumerate(lengths)]
    batches = deal(sequences, budget)
    assert sorted((sequence for batch in batches for sequence in batch), key=lambda s: s.index) == sequences
    longest = []
    for batch in batches:
        assert [sequence.index for sequence in batch] == sorted(sequence.index for sequence in batch)
        longest.append(max(len(sequence.ids) for sequence in batch))
        assert len(batch) == 1 or len(batch) * longest[-1] <= budget
    assert longest == sorted(longest, reverse=True)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(1, 60))
def test_a_batch_is_closed_only_where_the_next_sequence_does_not_fit(lengths: list[int], budget: int) -> None:
    batches = deal([TokenSequence(index, tuple(range(length))) for index, length in enumerate(lengths)], budget)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * max(len(sequence.ids) for sequence in batch) > budget


def test_batches_by_hand() -> None:
    sequences = [TokenSequence(index, (0,) * length) for index, length in enumerate([2, 5, 3, 5, 1])]
    assert [[s.index for s in batch] for batch in deal(sequences, 10)] == [[1, 3], [0, 2, 4]]
    assert [[s.index for s in batch] for batch in deal(sequences, 4)] == [[1], [3], [2], [0, 4]]


def test_the_bundled_corpus_is_plain_json_lines_with_known_fields() -> None:
    from pytest_maxact.resources import data_folder

    for line in (data_folder("corpora") / "core.jsonl").read_text(encoding="utf-8").splitlines():
        assert json.loads(line).keys() == {"id", "category", "text"}
