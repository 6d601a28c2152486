"""Corpora: load and check them, turn samples into token ids, deal the samples into batches."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pytest_maxact.corpus_sources import HUB_PREFIX, Row, file_rows, hub_rows
from pytest_maxact.errors import CorpusError, first_line, shortened
from pytest_maxact.generated import DIGESTS, make
from pytest_maxact.generated.draw import Draw
from pytest_maxact.images import ImageFile, image_file
from pytest_maxact.prompts import SpecialTokens, chat_ids, chat_template, is_processor, tokenizer_of
from pytest_maxact.proportion import in_proportion
from pytest_maxact.record import VOCABULARY
from pytest_maxact.resources import data_folder
from pytest_maxact.vocabulary import Vocabulary

SMOKE_SAMPLES = 16
PLACEHOLDER = "<image>"
MAX_SAMPLES = 10_000_000  # a thousand times the corpora that figures are published of; they are held in memory
MAX_LABEL = 1000  # characters of an id or category, which records repeat
MAX_TOKEN_ID = (1 << 31) - 1  # no vocabulary is near it


@dataclass(frozen=True)
class Sample:
    """One text, which may have images, one ready sequence of token ids, or what is to be drawn; exactly one of them is set.

    `corpus` names the one that it comes from where several are joined.
    """

    id: str
    category: str
    text: str | None = None
    input_ids: tuple[int, ...] | None = None
    images: tuple[ImageFile, ...] = ()
    draw: Draw | None = None
    corpus: str | None = None

    @property
    def parts(self) -> list[str | ImageFile]:
        """Text and images in their order: an image stands where the text says `<image>`, else before the text."""
        text = self.text or ""
        if not self.images or PLACEHOLDER not in text:
            return [*self.images, text]
        first, *others = text.split(PLACEHOLDER)
        pairs = zip(self.images, others, strict=True)
        return [part for part in (first, *(part for pair in pairs for part in pair)) if part]


@dataclass(frozen=True)
class Corpus:
    """Samples in a fixed order.

    Where `text` is false nothing that a run writes or tells may hold what the samples hold: neither texts and tokens, nor their
    own ids and categories, which are numbers from 0 there. The digest is the same.
    """

    id: str
    samples: tuple[Sample, ...]
    text: bool = True

    @property
    def digest(self) -> str:
        """sha256 over the samples as they are: ids, categories, texts and token ids, and the bytes of images.

        Of what is still to be drawn it is over what that follows from.
        """
        digest = hashlib.sha256()
        for sample in self.samples:
            line: list[object] = [sample.id, sample.category, sample.text, sample.input_ids]
            if sample.images:
                line.append([image.digest for image in sample.images])
            if sample.draw is not None:
                line.append(astuple(sample.draw))
            digest.update(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()

    @property
    def pictured(self) -> list[Sample]:
        """The samples that have images, under the names by which they are called."""
        named = zip(self.samples, self.names, strict=True)
        return [replace(sample, id=name) for sample, name in named if sample.images]

    @property
    def names(self) -> list[str]:
        """What each sample is called in records and messages: its id, or its number."""
        return [sample.id if self.text else str(number) for number, sample in enumerate(self.samples)]

    @property
    def labels(self) -> list[str]:
        """What the category of each sample is called in records: itself, or its number in the order of the samples."""
        if self.text:
            return [sample.category for sample in self.samples]
        numbers: dict[str, str] = {}
        return [numbers.setdefault(sample.category, str(len(numbers))) for sample in self.samples]

    @property
    def categories(self) -> dict[str, int]:
        """How many samples each category has, by what it is called."""
        return dict(Counter(self.labels))

    @property
    def drawn(self) -> bool:
        """Whether some of it is to be drawn from the model's vocabulary."""
        return any(sample.draw is not None for sample in self.samples)

    def drawn_from(self, vocabulary: Vocabulary, max_length: int) -> Corpus:
        """The same samples with token ids in place of what is to be drawn, at most `max_length` of them.

        Raises:
            CorpusError: where there is no room for what stands before a token.

        """
        if len(vocabulary.prefix) >= max_length:
            raise CorpusError(
                f"corpus {self.id} runs tokens after the {len(vocabulary.prefix)} that the special-token policy puts first, "
                f"and samples are cut at {max_length} tokens: raise --maxact-max-length, or use --maxact-special-tokens=none"
            )
        samples: list[Sample] = []
        for sample in self.samples:
            if sample.draw is None:
                samples.append(sample)
                continue
            for name, ids in sample.draw.samples(vocabulary, max_length):
                samples.append(Sample(name, sample.category, input_ids=ids, corpus=sample.corpus))
        return _without_duplicates(replace(self, samples=tuple(samples)))

    def first(self, count: int) -> Corpus:
        """The first `count` samples of an order that keeps the categories in proportion, at any count.

        `in_proportion` is that order; the chosen samples keep the corpus's own. The vocabulary stays whole, and does not count.

        Raises:
            CorpusError: where the corpus has fewer samples.

        """
        single = [index for index, sample in enumerate(self.samples) if sample.draw is None or sample.draw.kind != "each"]
        if self.samples and not single:
            raise CorpusError(f"corpus {self.id} is every token there is and cannot be cut: leave out --maxact-samples")
        if count > len(single):
            raise CorpusError(f"corpus {self.id} has {len(single)} samples, not {count}: ask for at most that many")
        order = in_proportion([self.samples[index].category for index in single])
        left = set(single) - {single[place] for place in order[:count]}
        return replace(self, samples=tuple(sample for index, sample in enumerate(self.samples) if index not in left))


@dataclass(frozen=True)
class TokenSequence:
    """The token ids of one sample; `index` is the sample's place in the corpus, `cut` whether it had more."""

    index: int
    ids: tuple[int, ...]
    cut: bool = False


def bundled() -> list[str]:
    """Names of the corpora that ship with the package, or are made by it."""
    return sorted([path.stem for path in data_folder("corpora").glob("*.jsonl")] + ["smoke", VOCABULARY, *DIGESTS])


def load_corpus(name: str, *, text: bool = True) -> Corpus:
    """Load a bundled corpus, a file, a data set of the Hub, or several joined by `+`.

    Bundled are `core`; `smoke`, 16 samples of it; `images`; `diverse-5k` and `stress`, which are made at first use; and
    `vocabulary`, every token of the model alone, which is exhaustive for the first position of a causal decoder.

    Args:
        name: a bundled name, a JSON Lines, `.txt` or `.parquet` file, or `hf:org/name` (see `corpus_sources`). A row holds
            `text` or `input_ids`, and may hold `id` and `category`. A row of JSON Lines may hold `images` beside its text:
            paths of PNG or JPEG files, relative to the corpus file and below its folder.
        text: whether what is in it may be written and told, see `Corpus`.

    Raises:
        CorpusError: where the corpus is not found, or malformed (the row is named), an image is missing or broken, or an
            id occurs twice.

    """
    parts = [_load_one(part) for part in name.split("+")]
    if len(parts) == 1:
        return _without_duplicates(replace(parts[0], text=text))
    ids = Counter(part.id for part in parts)
    called = [part.id if ids[part.id] == 1 else typed for part, typed in zip(parts, name.split("+"), strict=True)]
    samples = tuple(replace(sample, corpus=own) for part, own in zip(parts, called, strict=True) for sample in part.samples)
    return _without_duplicates(Corpus("+".join(part.id for part in parts), samples, text))


def _without_duplicates(corpus: Corpus) -> Corpus:
    duplicate = next((id_ for id_, times in Counter(sample.id for sample in corpus.samples).items() if times > 1), None)
    if duplicate is not None:
        first = [sample.id for sample in corpus.samples].index(duplicate)
        called = shortened(repr(duplicate)) if corpus.text else f"of sample {first}"
        raise CorpusError(f"corpus {corpus.id} has the id {called} more than once: give every sample its own")
    return corpus


def _load_one(name: str) -> Corpus:
    if name == "smoke":
        return replace(_load_one("core").first(SMOKE_SAMPLES), id="smoke")
    if name in DIGESTS:
        return _generated(name)
    if name == VOCABULARY:
        return Corpus(name, (Sample(name, name, draw=Draw("each", name)),))
    if name.startswith(HUB_PREFIX):
        return _corpus(name, hub_rows(name), f"corpus {name}")
    path = data_folder("corpora") / f"{name}.jsonl" if name in bundled() else Path(os.path.expanduser(name))
    if os.path.isfile(path):  # false, as what follows, also where no file can have that name
        called = path.name if path.stem == VOCABULARY else path.stem  # that name is taken
        return _corpus(called, file_rows(path), f"corpus file {path}")
    what = "is a folder" if os.path.isdir(path) else "is no regular file" if os.path.exists(path) else "was not found"
    raise CorpusError(
        f"corpus {name} {what} (looked at {path.absolute()}): name a JSON Lines, .txt or .parquet file, hf:org/name for a data "
        f"set of the Hub, or one of {', '.join(bundled())}"
    )


@cache
def _generated(name: str) -> Corpus:
    corpus = Corpus(
        name,
        tuple(
            Sample(id_, category, draw=content) if isinstance(content, Draw) else Sample(id_, category, text=content)
            for id_, category, content in make(name)
        ),
    )
    if corpus.digest != DIGESTS[name]:
        raise CorpusError(
            f"corpus {name} was made with digest {corpus.digest[:12]}, not {DIGESTS[name][:12]}: reinstall pytest-maxact, or "
            "name a corpus that is stored, such as core"
        )
    return corpus


def _corpus(name: str, rows: Iterable[Row], source: str) -> Corpus:
    samples = tuple(_sample(row) for row in itertools.islice(rows, MAX_SAMPLES + 1))
    if len(samples) > MAX_SAMPLES:
        raise CorpusError(f"{source} has more than the {MAX_SAMPLES:,} samples that are read: split it")
    if not samples:
        raise CorpusError(f"{source} has no samples: give it at least one")
    return Corpus(name, samples)


def _sample(row: Row) -> Sample:
    data = row.data
    if not isinstance(data, dict) or ("text" in data) == ("input_ids" in data):
        raise CorpusError(f'{row.place} has no usable key: it needs either "text" or "input_ids"')
    name, category = data.get("id", row.id), data.get("category", "uncategorized")
    if not isinstance(name, str) or not isinstance(category, str):
        raise CorpusError(f'{row.place}: "id" and "category" must be strings')
    if len(name) > MAX_LABEL or len(category) > MAX_LABEL:
        raise CorpusError(f'{row.place}: "id" and "category" have at most {MAX_LABEL:,} characters each')
    if "text" in data:
        text = data["text"]
        if not isinstance(text, str) or not text:
            raise CorpusError(f'{row.place}: "text" must be a string that is not empty')
        return Sample(name, category, text=text, images=_images(row, text))
    ids = data["input_ids"]
    if not isinstance(ids, list) or not ids or not all(type(token) is int and 0 <= token <= MAX_TOKEN_ID for token in ids):
        raise CorpusError(f'{row.place}: "input_ids" must be a list of whole numbers from 0, not empty, none beyond 2^31 - 1')
    if data.get("images"):
        raise CorpusError(f'{row.place}: "images" go with "text", not with "input_ids": only the processor knows their tokens')
    return Sample(name, category, input_ids=tuple(ids))


def _images(row: Row, text: str) -> tuple[ImageFile, ...]:
    names = row.data.get("images") or []
    if not names:
        return ()
    assert row.folder is not None  # no other source gives such a column
    if not isinstance(names, list):
        raise CorpusError(f'{row.place}: "images" must be a list of paths of files')
    if text.count(PLACEHOLDER) not in (0, len(names)):
        raise CorpusError(
            f"{row.place}: the text says {PLACEHOLDER} {text.count(PLACEHOLDER)} times and has {len(names)} images: say it "
            "once for each of them, or never, which puts them before the text"
        )
    return tuple(image_file(row.folder, name, row.place) for name in names)


def check_vocabulary(corpus: Corpus, vocabulary: int) -> None:
    """Refuse ready token ids that the model has no embedding for.

    Raises:
        CorpusError: naming the first sample with an id of `vocabulary` or above.

    """
    for sample, name in zip(corpus.samples, corpus.names, strict=True):
        if sample.input_ids is not None and max(sample.input_ids) >= vocabulary:
            raise CorpusError(
                f"sample {name} of corpus {corpus.id} holds token id {max(sample.input_ids)}, beyond the model's "
                f"vocabulary of {vocabulary}: use the corpus with the tokenizer it was made for"
            )


def check_tokenizer(corpus: Corpus, tokenizer: Any, special_tokens: SpecialTokens) -> None:
    """Make sure that the tokenizer, or the processor, can do what the corpus and the special-token policy ask of it.

    Raises:
        CorpusError: where a tokenizer or chat template is missing, or the corpus has images and there is no processor.

    """
    if tokenizer is None and any(sample.text is not None for sample in corpus.samples):
        raise CorpusError(
            f"corpus {corpus.id} holds texts, and the model came without a tokenizer: pass one, or add its files to the "
            'checkpoint, or use a corpus of "input_ids"'
        )
    if corpus.pictured and not is_processor(tokenizer):
        raise CorpusError(
            f"corpus {corpus.id} has images, and the model came without a processor: pass its processor (transformers' "
            "AutoProcessor) in place of the tokenizer, or use a corpus of texts"
        )
    if special_tokens == "chat":
        if not chat_template(tokenizer):
            raise CorpusError("the tokenizer has no chat template: use --maxact-special-tokens=none or =tokenizer")
        try:
            chat_ids(tokenizer, "text")
        except Exception as cause:  # whatever a template's author let it raise
            raise CorpusError(
                f"the chat template cannot be used ({first_line(cause)}): use --maxact-special-tokens=none or =tokenizer"
            ) from None


def tokenize(corpus: Corpus, tokenizer: Any, special_tokens: SpecialTokens, max_length: int) -> list[TokenSequence]:
    """Token ids of every sample without images, cut to `max_length`; ready `input_ids` are taken as they are.

    Args:
        corpus: the samples.
        tokenizer: a transformers tokenizer, or a processor that has one; None will do where every sample holds ids.
        special_tokens: what is put around a text: nothing, what the tokenizer adds by itself, or its chat template with
            the text as the user's turn.
        max_length: how many tokens of a sample are kept, from its beginning.

    Raises:
        CorpusError: where a tokenizer or chat template is missing (see `check_tokenizer`) or breaks, or a text has no tokens.

    """
    check_tokenizer(corpus, tokenizer, special_tokens)
    encode = tokenizer_of(tokenizer)
    sequences = []
    for index, sample in enumerate(corpus.samples):
        ids: Sequence[int]
        if sample.images:
            continue
        if sample.input_ids is not None:
            ids = sample.input_ids
        else:
            try:
                if special_tokens == "chat":
                    ids = chat_ids(tokenizer, sample.text or "")
                else:
                    ids = encode(sample.text, add_special_tokens=special_tokens == "tokenizer", verbose=False)["input_ids"]
            except Exception as cause:  # whatever a tokenizer's or template's files make it raise
                reason = type(cause).__name__
                if corpus.text:  # it may quote what it could not read
                    reason += f": {first_line(cause)}"
                raise CorpusError(
                    f"sample {shortened(corpus.names[index])} of corpus {corpus.id} cannot be tokenized ({reason}): copy the "
                    "tokenizer's files again, or remove the sample"
                ) from None
        if not ids:
            raise CorpusError(
                f"sample {corpus.names[index]} of corpus {corpus.id} has no tokens under this tokenizer: remove it"
            )
        sequences.append(TokenSequence(index, tuple(ids[:max_length]), cut=len(ids) > max_length))
    return sequences


def deal(sequences: Sequence[TokenSequence], batch_tokens: int) -> list[list[TokenSequence]]:
    """Batches of sequences of similar length, the longest first, so that memory runs out at once or not at all.

    A batch holds as many sequences as fit into `batch_tokens` tokens, padding counted, and at least one. Inside a batch
    they stand in the corpus's order.
    """
    batches: list[list[TokenSequence]] = []
    for sequence in sorted(sequences, key=lambda sequence: (-len(sequence.ids), sequence.index)):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0].ids) <= batch_tokens:
            batches[-1].append(sequence)
        else:
            batches.append([sequence])
    return [sorted(batch, key=lambda sequence: sequence.index) for batch in batches]
