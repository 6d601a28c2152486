"""Inputs of an image-text model from a sample with images, by the model's own processor."""

from __future__ import annotations

import warnings
from collections.abc import Callable, ItemsView, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pytest_maxact.corpus import Sample
from pytest_maxact.errors import CorpusError, first_line
from pytest_maxact.images import ImageFile
from pytest_maxact.prompts import SpecialTokens, chat_prompt, image_placeholder

NOT_EXTRA = ("input_ids", "attention_mask", "labels")


@dataclass(frozen=True)
class Encoded:
    """Token ids int64 [T], bool [T] which of them stand for images, and what else the model's forward takes, by name."""

    ids: torch.Tensor
    image: torch.Tensor
    extra: Mapping[str, torch.Tensor]


class Prepared(Mapping[str, torch.Tensor]):
    """Tensors that are made each time they are asked for: those of a whole corpus might not fit into memory.

    `items()` makes all of them once.
    """

    def __init__(self, names: tuple[str, ...], make: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        self._names, self._make = names, make

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._make()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def items(self) -> ItemsView[str, torch.Tensor]:
        """Names and tensors."""
        return self._make().items()


@dataclass(frozen=True)
class ImageTextEncoder:
    """A processor, the ids of tokens that stand for images, and the dtype in which the model takes pixels."""

    processor: Any
    image_ids: tuple[int, ...]
    placeholder: str
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, processor: Any, config: Any, dtype: torch.dtype | None = None) -> ImageTextEncoder:
        """The encoder of a model.

        Args:
            processor: the model's processor.
            config: the config of the whole model, which tells the ids of image tokens.
            dtype: what floating-point inputs are turned to; None leaves them as they are.

        Raises:
            CorpusError: where neither config nor processor tells which tokens stand for images.

        """
        declared = [getattr(config, name, None) for name in ("image_token_id", "image_token_index")]
        ids = [id_ for id_ in declared if isinstance(id_, int)][:1]
        ids = ids or [*(getattr(processor, "image_token_ids", None) or [getattr(processor, "image_token_id", None)])]
        if not all(isinstance(id_, int) for id_ in ids):
            raise CorpusError(
                f"images cannot be run through {config.model_type}: neither its config nor its {type(processor).__name__} "
                "tells which tokens stand for images; use a corpus of texts"
            )
        return cls(processor, tuple(ids), image_placeholder(processor), dtype)

    def encode(self, sample: Sample, special_tokens: SpecialTokens, max_length: int) -> Encoded:
        """A sample with images as the model takes it.

        It is cut to `max_length` tokens, from its beginning, where that leaves all of its image tokens.

        Raises:
            CorpusError: where an image is not what it was, the processor cannot take the sample, or `max_length` would cut
                its images.

        """
        inputs = self._processed(sample, special_tokens)
        ids = inputs["input_ids"][0]
        image = torch.isin(ids, torch.tensor(self.image_ids, device=ids.device))
        if not bool(image.any()):
            raise CorpusError(
                f"no token of sample {sample.id} stands for an image (looked for id {', '.join(map(str, self.image_ids))} "
                f"among those of {type(self.processor).__name__}): model and processor do not fit together"
            )
        needed = int(image.nonzero().max()) + 1
        if needed > max_length:
            raise CorpusError(
                f"sample {sample.id} takes {needed} tokens up to the last of its images, more than max_length={max_length}, "
                "and images are not cut: give at least that many, or smaller images"
            )
        extra = {name: self._fitted(value, len(ids), max_length) for name, value in inputs.items() if name not in NOT_EXTRA}
        return Encoded(ids[:max_length], image[:max_length], extra)

    def prepared(self, sample: Sample, special_tokens: SpecialTokens, max_length: int) -> tuple[Encoded, Prepared]:
        """As `encode`, and beside it its extra inputs as `Prepared`."""
        encoded = self.encode(sample, special_tokens, max_length)
        return encoded, Prepared(tuple(encoded.extra), lambda: self.encode(sample, special_tokens, max_length).extra)

    def _processed(self, sample: Sample, special_tokens: SpecialTokens) -> dict[str, torch.Tensor]:
        images = [image.read() for image in sample.images]
        try:
            text = self._text(sample, special_tokens)
            add = {"add_special_tokens": special_tokens == "tokenizer"}  # a chat template brings its own
            with warnings.catch_warnings():  # a session may make errors of them
                warnings.simplefilter("ignore")
                inputs = dict(self.processor(text=[text], images=[images], return_tensors="pt", **add))
        except Exception as cause:  # transformers raises whatever its parts raise
            reason = f"{type(cause).__name__}: {first_line(cause)[:300]}"
            raise CorpusError(f"{type(self.processor).__name__} cannot take sample {sample.id} ({reason})") from cause
        for name, value in inputs.items():
            if not isinstance(value, torch.Tensor):
                raise CorpusError(
                    f"{type(self.processor).__name__} makes no tensor of {name} (a {type(value).__name__}) for sample "
                    f"{sample.id}: use a corpus of texts"
                )
        return inputs

    def _text(self, sample: Sample, special_tokens: SpecialTokens) -> str:
        if special_tokens == "chat":
            return chat_prompt(self.processor, sample.parts)
        return "".join(self.placeholder if isinstance(part, ImageFile) else part for part in sample.parts)

    def _fitted(self, value: torch.Tensor, length: int, max_length: int) -> torch.Tensor:
        """Floating-point values in the model's dtype; what is said of each token (types of tokens) cut as they are."""
        if value.is_floating_point():
            return value if self.dtype is None else value.to(self.dtype)
        return value[:, :max_length] if value.shape[:2] == (1, length) else value
