"""Corpora that are made instead of stored must come out the same everywhere, and be what is said of them."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from pytest_maxact import corpus
from pytest_maxact.corpus import Corpus, Sample, load_corpus
from pytest_maxact.errors import CorpusError
from pytest_maxact.generated import DIGESTS, make
from pytest_maxact.generated.chance import Chance
from pytest_maxact.generated.draw import Draw
from pytest_maxact.generated.english import article, past, plural
from pytest_maxact.generated.languages import LATIN, SCRIPTS
from pytest_maxact.runner import measure
from pytest_maxact.settings import located
from pytest_maxact.vocabulary import Vocabulary
from tests.conftest import tiny_model

# Every baseline over these corpora holds one of them: what changes here is another corpus, and needs another name.
PINNED = {
    "diverse-5k": "12428ea8c5d7f82a3ad8c2949bc2aa19186fd31954a1a1350c2ab3950a28cb9b",
    "stress": "6e5efea72aad0faeefd80178491ec9688644afc18bd68a1a9d45801a68c81349",
}


@pytest.fixture(scope="module")
def diverse() -> Corpus:
    return load_corpus("diverse-5k")


@pytest.fixture(scope="module")
def stress() -> Corpus:
    return load_corpus("stress")


def texts(of: Corpus, category: str) -> list[str]:
    return [sample.text for sample in of.samples if sample.category == category and sample.text is not None]


# --- the same everywhere


def test_the_digests_are_those_of_the_first_release() -> None:
    assert DIGESTS == PINNED
    assert {name: load_corpus(name).digest for name in PINNED} == PINNED


@pytest.mark.parametrize("seed", ["0", "4242"])
def test_neither_hashes_nor_the_locale_nor_other_random_numbers_matter(seed: str) -> None:
    code = f"""
import random; random.seed({seed})
from pytest_maxact.corpus import load_corpus
for name in {list(PINNED)}: print(load_corpus(name).digest)
"""
    environment = os.environ | {"PYTHONHASHSEED": seed, "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(PINNED.values())


def test_making_one_leaves_the_random_generator_of_the_session_alone() -> None:
    import random

    random.seed(5)
    before = random.getstate()
    assert next(make("diverse-5k")).id == "diverse-prose-001"
    assert random.getstate() == before


def test_a_corpus_that_comes_out_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DIGESTS, "stress", "0" * 64)
    corpus._generated.cache_clear()
    with pytest.raises(CorpusError, match=f"^corpus stress was made with digest {PINNED['stress'][:12]}, not 000000000000: "):
        load_corpus("stress")


def test_chance_gives_these_values_for_ever() -> None:
    chance = Chance("a name")
    assert [chance.below(1000) for _ in range(5)] == [139, 4, 375, 594, 896]
    assert [chance.between(3, 5) for _ in range(5)] == [5, 4, 5, 4, 4]
    assert chance.bits(40) == 819696367527
    assert chance.shuffled("abcdef") == ["f", "c", "a", "e", "d", "b"]
    assert chance.some("abcdef", 3) == ["f", "c", "d"]
    assert Chance("another").below(1000) != Chance("a name").below(1000)


def test_choices_keep_within_their_bounds_and_reach_them() -> None:
    chance = Chance("bounds")
    assert {chance.below(4) for _ in range(200)} == {0, 1, 2, 3}
    assert {chance.between(-1, 1) for _ in range(200)} == {-1, 0, 1}
    assert {chance.pick("ab") for _ in range(200)} == {"a", "b"}
    assert sorted(chance.shuffled(range(50))) == list(range(50))
    assert len({*chance.some("abc", 5)}) == 3
    assert 400 < sum(chance.odds(50) for _ in range(1000)) < 600
    assert not any(chance.odds(0) for _ in range(100))


# --- diverse-5k


def test_it_is_5000_different_samples_of_20_categories_of_one_size(diverse: Corpus) -> None:
    assert diverse.id == "diverse-5k"
    assert len(diverse.samples) == len({sample.id for sample in diverse.samples}) == 5_000
    assert len({sample.text for sample in diverse.samples}) == 5_000
    assert set(diverse.categories.values()) == {250}
    assert len(diverse.categories) == 20
    assert all(sample.text and sample.text.strip() for sample in diverse.samples)


def test_many_are_short_and_few_are_long(diverse: Corpus) -> None:
    for category in diverse.categories:
        sizes = sorted(len(text.encode()) for text in texts(diverse, category))
        assert sizes[25] < 24, category
        assert 30 < sizes[125] < 250, category
        assert 1_400 < sizes[-5] < sizes[-1] < 8_000, category
    assert sum(len(sample.text or "") for sample in diverse.samples) < 2_000_000


def test_they_begin_differently(diverse: Corpus) -> None:
    """By first words here; by first tokens of real tokenizers in test_real_checkpoints."""

    def first(text: str) -> str:
        return (re.match(r"\s*(?:[^\W\d_]+|.)", text, re.DOTALL) or pytest.fail(text)).group()

    everywhere = Counter(first(sample.text or "") for sample in diverse.samples)
    assert len(everywhere) > 4_200
    for category in diverse.categories:
        different = {first(text) for text in texts(diverse, category)}
        assert len(different) >= (10 if category == "json" else 120), category  # JSON begins with a brace, mostly


def test_every_count_keeps_the_categories_in_proportion(diverse: Corpus) -> None:
    for count in (1, 19, 20, 96, 500, 1_999, 5_000):
        chosen = diverse.first(count).categories
        assert sum(chosen.values()) == count
        assert all(abs(chosen.get(category, 0) - count / 20) < 1 for category in diverse.categories)


def test_python_parses_and_is_not_the_same_all_over(diverse: Corpus) -> None:
    kinds = Counter(type(node).__name__ for text in texts(diverse, "python") for node in ast.walk(ast.parse(text)))
    common = {
        "FunctionDef",
        "ClassDef",
        "For",
        "While",
        "If",
        "Try",
        "ListComp",
        "Lambda",
        "Dict",
        "JoinedStr",
        "Import",
        "Assert",
    }
    assert all(kinds[kind] >= 10 for kind in common), kinds


def test_json_can_be_read_and_holds_every_kind_of_value(diverse: Corpus) -> None:
    values = [json.loads(text) for text in texts(diverse, "json")]
    assert {type(value) for value in values} >= {dict, list, str, int, float}
    assert any('"\\u' in text or "\n" in text for text in texts(diverse, "json"))


def test_what_is_calculated_is_right(diverse: Corpus) -> None:
    joined = "\n".join(texts(diverse, "mathematics"))
    sums = re.findall(r"^(\d+) ([+×]) (\d+) = (\d+)$", joined, re.MULTILINE)
    assert len(sums) > 20
    assert all(int(left) + int(right) == int(total) for left, sign, right, total in sums if sign == "+")
    assert all(int(left) * int(right) == int(total) for left, sign, right, total in sums if sign == "×")
    roots = re.findall(
        r"(\d+)([a-z]) \+ (\d+) = (-?\d+)\. Subtracting \3, \1\2 = -?\d+; dividing by \1, \2 = (-?\d+)\.", joined
    )
    assert len(roots) > 50
    assert all(int(factor) * int(root) + int(shift) == int(total) for factor, _, shift, total, root in roots)


def test_tables_have_as_many_cells_in_each_row(diverse: Corpus) -> None:
    tables = [text.split("\n") for text in texts(diverse, "tables")]
    ruled = [rows for rows in tables if rows[0].startswith("| ")]
    tabbed = [rows for rows in tables if "\t" in rows[0]]
    assert len(ruled) >= 8
    assert len(tabbed) >= 8
    assert all(len({row.count("|") for row in rows}) == 1 for rows in ruled)
    assert all(len({row.count("\t") for row in rows}) == 1 for rows in tabbed)


def test_languages_are_many_and_each_is_met(diverse: Corpus) -> None:
    for languages, category in ((LATIN, "languages"), (SCRIPTS, "scripts")):
        joined = "\n".join(texts(diverse, category))
        assert len(languages) >= 18
        assert all(any(part in joined for part in language.predicates) for language in languages)


def test_english_inflects() -> None:
    assert [plural(noun) for noun in ("bench", "city", "key", "knife", "sheep", "rope")] == [
        *("benches", "cities", "keys", "knives", "sheep", "ropes")
    ]
    assert [past(verb) for verb in ("bake", "study", "play", "write", "ban")] == [
        "baked",
        "studied",
        "played",
        "wrote",
        "banned",
    ]
    assert [article(word) for word in ("oven", "urban", "universal", "hot")] == ["an oven", "an urban", "a universal", "a hot"]


# --- stress


def test_stress_has_texts_and_draws_of_seven_families(stress: Corpus) -> None:
    assert (
        dict.fromkeys(["uniform", "repeated", "delimiters", "whitespace", "numbers", "words", "scripts"], 16)
        == stress.categories
    )
    assert [sample.category for sample in stress.samples if sample.draw is not None] == ["uniform"] * 16 + ["repeated"] * 16
    assert all((sample.text is None) != (sample.draw is None) for sample in stress.samples)
    for category in ("delimiters", "whitespace", "numbers", "words", "scripts"):
        assert len({*texts(stress, category)}) == 16
        assert max(map(len, texts(stress, category))) == 131_072
    assert all(not text[:-1].strip("\u200b \t\r\n\u00a0\u2003\u3000\u2028") for text in texts(stress, "whitespace"))


def test_draws_are_of_the_vocabulary_and_as_long_as_they_say(stress: Corpus) -> None:
    known = Vocabulary(tuple(range(0, 100, 2)))
    drawn = [sample.draw for sample in stress.samples if sample.draw is not None]
    for draw in drawn:
        ((name, ids),) = draw.samples(known, 300)
        assert (name, len(ids)) == (draw.name, min(draw.length or 300, 300))
        assert [(name, ids[:10])] == list(draw.samples(known, 10))
        assert set(ids) <= set(known.ids)
        assert len({*ids}) == 1 if draw.kind == "repeated" else len({*ids}) > len(ids) // 8
    firsts = {ids for draw in drawn for _, ids in draw.samples(known, 1)}
    assert len(firsts) > 10  # neither begins as the others do
    ((_, many),) = Draw("uniform", "even").samples(Vocabulary(tuple(range(10))), 10_000)
    assert all(900 < many.count(token) < 1_100 for token in range(10))


def test_the_digest_is_over_all_that_a_draw_follows_from() -> None:
    def digest(*draw: Any) -> str:
        return Corpus("c", (Sample("a", "x", draw=Draw(*draw)),)).digest

    one = ("uniform", "n", 3)
    assert digest(*one) == digest(*one)
    others = [("repeated", "n", 3), ("uniform", "m", 3), ("uniform", "n", None)]
    assert digest(*one) not in [digest(*other) for other in others]


def test_a_model_is_measured_over_its_own_vocabulary(stress: Corpus, tokenizer: PreTrainedTokenizerFast) -> None:
    some = Corpus("drawn", tuple(sample for sample in stress.samples if sample.draw is not None))
    records = [measure(tiny_model("llama", vocab_size=size), tokenizer, some, max_length=40) for size in (64, len(tokenizer))]
    few, all_ = (record.corpus for record in records)
    assert few.digest == some.drawn_from(Vocabulary(tuple(range(64))), 40).digest
    assert all_.digest == some.drawn_from(Vocabulary(tuple(range(len(tokenizer)))), 40).digest != few.digest
    assert all(record.corpus.categories == {"uniform": 16, "repeated": 16} for record in records)
    assert all(max(sample.tokens for sample in record.samples) == 40 for record in records)


# --- by name


def test_they_go_by_their_names_and_join_what_is_stored(tmp_path: Path) -> None:
    assert located(tmp_path, "core+stress") == "core+stress"
    joined = load_corpus("core+diverse-5k+stress")
    assert joined.id == "core+diverse-5k+stress"
    assert len(joined.samples) == 96 + 5_000 + 112
    with pytest.raises(CorpusError, match=r"or one of core, diverse-5k, images, smoke, stress, vocabulary$"):
        load_corpus(str(tmp_path / "none"))
