"""What a run feeds to the model, as tensors: a corpus in padded batches, or batches that came ready."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pytest_maxact.corpus import Corpus, Sample, TokenSequence, check_vocabulary, deal, tokenize
from pytest_maxact.errors import CorpusError, MeasurementError
from pytest_maxact.processors import ImageTextEncoder
from pytest_maxact.prompts import SpecialTokens, tokenizer_of
from pytest_maxact.record import VOCABULARY, CorpusFacts, Location, Modality
from pytest_maxact.reducers.peak import PeakAt
from pytest_maxact.reducers.rows import NOWHERE
from pytest_maxact.vocabulary import Vocabulary

DEFAULT_MAX_LENGTH = 4096
CONTEXT_CHARACTERS = 24
HOST = torch.device("cpu")  # said each time: a notebook may have set another default


@dataclass(frozen=True)
class Batch:
    """Token ids int32 [B, T], a bool mask of the real ones, and int64 [B] the sample index of each row; all on the host.

    A sample with images is a batch of its own, without padding: `image`, bool [1, T], tells which of its tokens stand for
    images, and `extra` is what the whole model's forward takes besides ids and mask (pixels, sizes, types of tokens), by name.
    Batches of text have neither, and are for the text decoder alone.

    A run holds the batches of its whole corpus, so they are kept small; `extra` may be made anew each time.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    samples: torch.Tensor
    image: torch.Tensor | None = None
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def real(self) -> torch.Tensor:
        """Shape [B * T], False for padding."""
        return self.mask.reshape(-1)

    @property
    def place(self) -> torch.Tensor:
        """Shape [B * T], int64, where each token stands, as `Rows.place`."""
        place = (self.samples[:, None] << 32) + self.mask.cumsum(-1) - 1
        return place.where(self.mask, NOWHERE).reshape(-1)

    def inputs(self, device: torch.device) -> dict[str, torch.Tensor]:
        """What the forward takes: of the whole model where there is something extra, else of the text decoder.

        Left padding brings its own positions, which count real tokens.
        """
        inputs = {"input_ids": self.ids.to(device, torch.int64), "attention_mask": self.mask.to(device, torch.int64)}
        inputs |= {name: value.to(device) for name, value in self.extra.items()}
        if not bool(self.mask[:, 0].all()):
            inputs["position_ids"] = (self.mask.cumsum(-1) - 1).clamp(min=0).to(device)
        return inputs

    @property
    def tokens(self) -> int:
        """How many real tokens the batch holds, those that stand for images among them."""
        return int(self.mask.sum())

    def part(self, first: int, last: int) -> Batch:
        """Rows `first` to `last`, that one left out, no longer padded at the right than they need."""
        if (first, last) == (0, len(self.ids)):
            return self
        mask = self.mask[first:last]
        end = int(mask.any(0).nonzero().max()) + 1 if bool(mask.any()) else 0
        return Batch(self.ids[first:last, :end], mask[:, :end], self.samples[first:last])


@dataclass(frozen=True)
class Work:
    """The batches of a run, within a token budget or ready ones; `names` and `categories` are the samples', by index.

    `corpora` are those that the samples come from, where several were joined; `notes` say in words what is special. Where
    `text` is false no place of a token is told with what stands there.

    Tokens, of facts and samples alike, are all that go into the text decoder: those that stand for images count, too.
    """

    batches: list[Batch]
    names: list[str]
    categories: Sequence[str | None]
    batch_tokens: int | None
    facts: CorpusFacts
    corpora: Sequence[str | None] = ()
    notes: tuple[str, ...] = ()
    text: bool = True

    @property
    def tokens_by_modality(self) -> dict[Modality, int]:
        """How many tokens are text, and how many stand for images; nothing without images."""
        images = sum(int(batch.image.sum()) for batch in self.batches if batch.image is not None)
        return {"text": self.facts.tokens - images, "image": images} if images else {}

    def without_padding(self) -> Work:
        """The same samples in batches of equal lengths, in the order in which their lengths first come."""
        batches: list[Batch] = []
        for batch in self.batches:
            if bool(batch.mask.all()):
                batches.append(batch)
                continue
            lengths = batch.mask.sum(-1)
            for length in dict.fromkeys(lengths.tolist()):
                rows = lengths == length
                mask = batch.mask[rows]
                ids = batch.ids[rows][mask].reshape(-1, length)
                batches.append(Batch(ids, torch.ones_like(ids, dtype=torch.bool), batch.samples[rows]))
        return replace(self, batches=batches)


def length_limit(config: Any, max_length: int | None) -> int:
    """How many tokens of a sample are kept: as many as were asked for, else the least of 4096 and the context.

    Raises:
        CorpusError: where that is none.

    """
    context = int(getattr(config, "max_position_embeddings", None) or DEFAULT_MAX_LENGTH)
    max_length = min(DEFAULT_MAX_LENGTH, context) if max_length is None else max_length
    if max_length < 1:
        raise CorpusError(f"max_length={max_length} leaves no token of any sample: give at least 1")
    return max_length


def from_corpus(
    corpus: Corpus,
    tokenizer: Any,
    config: Any,
    max_length: int | None,
    special_tokens: SpecialTokens,
    batch_tokens: int,
    dtype: torch.dtype | None = None,
) -> Work:
    """A corpus as batches: padded ones of texts, and one of each sample with images, which come first.

    Args:
        corpus: the samples.
        tokenizer: the model's tokenizer, or its processor where the corpus has images.
        config: the config of the whole model.
        max_length: tokens kept of a sample; None for the least of 4096 and the context.
        special_tokens: what is put around a text.
        batch_tokens: token budget of a batch of texts, padding counted.
        dtype: that of pixels and other floating-point inputs; None leaves them as the processor makes them.

    Raises:
        CorpusError: where corpus, tokenizer and model do not fit together.

    """
    text_config = config.get_text_config(decoder=True)
    check_vocabulary(corpus, int(text_config.vocab_size))
    max_length, notes = length_limit(text_config, max_length), tuple[str, ...]()
    if corpus.drawn:
        vocabulary = Vocabulary.of(tokenizer, int(text_config.vocab_size), special_tokens)
        corpus, notes = corpus.drawn_from(vocabulary, max_length), vocabulary.notes
    sequences = tokenize(corpus, tokenizer, special_tokens, max_length)
    cut = sum(sequence.cut for sequence in sequences)
    if cut:
        notes += (f"{cut:,} of {len(corpus.samples):,} samples were cut to {max_length:,} tokens",)
    swept = [sequence for sequence in sequences if corpus.samples[sequence.index].corpus == VOCABULARY]
    others = [sequence for sequence in sequences if corpus.samples[sequence.index].corpus != VOCABULARY]
    # Apart, so that all batches of a sweep but the last have one shape.
    batches = [_padded(batch) for part in (others, swept) for batch in deal(part, batch_tokens)]
    if corpus.pictured:
        encoder = ImageTextEncoder.of(tokenizer, config, dtype)
        places = [index for index, sample in enumerate(corpus.samples) if sample.images]
        pictured = zip(places, corpus.pictured, strict=True)
        made = [_with_images(encoder, index, sample, special_tokens, max_length) for index, sample in pictured]
        # As elsewhere the longest comes first, so that memory runs out at once or not at all.
        batches = sorted(made, key=lambda batch: -batch.tokens) + batches
    facts = CorpusFacts(
        id=corpus.id,
        digest=corpus.digest,
        samples=len(corpus.samples),
        tokens=sum(batch.tokens for batch in batches),
        categories=corpus.categories,
        max_length=max_length,
        special_tokens=special_tokens,
    )
    corpora = [sample.corpus for sample in corpus.samples]
    return Work(batches, corpus.names, corpus.labels, batch_tokens, facts, corpora, notes, corpus.text)


def from_batches(given: Iterable[Mapping[str, torch.Tensor]], vocabulary: int) -> Work:
    """Ready batches; of each only `input_ids` and `attention_mask` are used.

    Raises:
        MeasurementError: where they are not [B, T] both, a mask holds anything but 0 and 1, or an id is beyond the vocabulary.

    """
    batches = list(_numbered(given, vocabulary))
    names = [str(number) for number in range(sum(len(batch.ids) for batch in batches))]
    facts = CorpusFacts(
        id="batches",
        digest=None,
        samples=len(names),
        tokens=sum(batch.tokens for batch in batches),
        categories={},
        max_length=None,
        special_tokens="none",
    )
    return Work(batches, names, [None] * len(names), None, facts)


def _with_images(
    encoder: ImageTextEncoder, index: int, sample: Sample, special_tokens: SpecialTokens, max_length: int
) -> Batch:
    encoded, extra = encoder.prepared(sample, special_tokens, max_length)
    ids = encoded.ids[None].to(HOST, torch.int32)
    mask = torch.ones(ids.shape, dtype=torch.bool, device=HOST)
    return Batch(ids, mask, torch.tensor([index], device=HOST), encoded.image[None].to(HOST), extra)


def _padded(sequences: list[TokenSequence]) -> Batch:
    """Right padding with the sample's own last token: another id's embedding might hold a NaN, which a mask lets through."""
    lengths = torch.tensor([len(sequence.ids) for sequence in sequences], device=HOST)
    mask = torch.arange(int(lengths.max()), device=HOST) < lengths[:, None]
    given = torch.tensor([token for sequence in sequences for token in sequence.ids], dtype=torch.int32, device=HOST)
    ids = given[lengths.cumsum(0) - 1][:, None].repeat(1, mask.shape[1])
    ids[mask] = given
    return Batch(ids, mask, torch.tensor([sequence.index for sequence in sequences], device=HOST))


def _numbered(batches: Iterable[Mapping[str, torch.Tensor]], vocabulary: int) -> Iterator[Batch]:
    first = 0
    for number, given in enumerate(batches):
        if "input_ids" not in given:
            raise MeasurementError(f"batch {number} has no input_ids: it holds {', '.join(map(str, given)) or 'nothing'}")
        ids = given["input_ids"].cpu()
        mask = given.get("attention_mask", torch.ones_like(ids)).cpu().to(torch.int64)
        if ids.ndim != 2 or ids.shape != mask.shape:
            raise MeasurementError(
                f"batch {number}: input_ids {tuple(ids.shape)} and attention_mask {tuple(mask.shape)} must be [B, T]"
            )
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise MeasurementError(f"batch {number}: attention_mask must hold 1 for a token and 0 for padding, nothing else")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
            raise MeasurementError(f"batch {number} holds token ids outside 0 to {vocabulary - 1}, the model's vocabulary")
        yield Batch(ids.to(torch.int32), mask.bool(), torch.arange(first, first + len(ids), device=HOST))
        first += len(ids)


class Texts:
    """Finds the token of a place again, and decodes it with what stands around it, unless the work's text is not to be told."""

    def __init__(self, work: Work, tokenizer: Any) -> None:
        self.work = work
        self.names = work.names
        self.tokenizer = tokenizer_of(tokenizer) if work.text else None
        self.rows = {sample: (batch, row) for batch in work.batches for row, sample in enumerate(batch.samples.tolist())}

    def token(self, sample: int, position: int) -> str | None:
        """The text of one token, None without a tokenizer."""
        batch, row = self.rows[sample]
        return None if self.tokenizer is None else self.tokenizer.decode([int(batch.ids[row][batch.mask[row]][position])])

    def location(self, peak: PeakAt) -> Location:
        """The record of a peak's place."""
        if peak.sample is None or peak.position is None:
            return Location(signed=peak.signed, feature=peak.feature)
        batch, row = self.rows[peak.sample]
        ids, position = batch.ids[row][batch.mask[row]].tolist(), peak.position
        token = before = after = None
        if self.tokenizer is not None:
            token = self.tokenizer.decode([ids[position]])
            before = self.tokenizer.decode(ids[max(0, position - 12) : position])[-CONTEXT_CHARACTERS:]
            after = self.tokenizer.decode(ids[position + 1 : position + 13])[:CONTEXT_CHARACTERS]
        return Location(
            signed=peak.signed,
            feature=peak.feature,
            sample=self.names[peak.sample],
            position=position,
            token_id=ids[position] if self.work.text else None,  # whoever has the tokenizer can read it
            token=token,
            before=before,
            after=after,
        )
