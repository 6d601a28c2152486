"""What is written around a sample for a model: its chat template, and what stands in a text for an image.

Whatever is called a tokenizer here may be a processor, which holds one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pytest_maxact.images import ImageFile

SpecialTokens = Literal["none", "tokenizer", "chat"]

MARK = "maxact-text"


def is_processor(tokenizer: Any) -> bool:
    """Whether it makes inputs of images too."""
    return getattr(tokenizer, "image_processor", None) is not None


def tokenizer_of(tokenizer: Any) -> Any:
    """A processor's tokenizer; a tokenizer is its own, and so is None."""
    return tokenizer.tokenizer if is_processor(tokenizer) else tokenizer


def chat_template(tokenizer: Any) -> Any:
    """The template, or templates by name; None where there is none."""
    return getattr(tokenizer, "chat_template", None) or getattr(tokenizer_of(tokenizer), "chat_template", None)


def chat_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text as the user's turn of the chat template."""
    content = text if _takes_strings(tokenizer) else _content([text])
    ids: list[int] = _rendered(tokenizer, content, tokenize=True, return_dict=True)["input_ids"]
    return ids


def chat_prefix(tokenizer: Any) -> str | None:
    """What the chat template writes before the user's text, None where it leaves the text out."""
    content = MARK if _takes_strings(tokenizer) else _content([MARK])
    before, mark, _ = _rendered(tokenizer, content, tokenize=False).partition(MARK)
    return before if mark else None


def chat_prompt(tokenizer: Any, parts: Sequence[str | ImageFile]) -> str:
    """Text and images as the user's turn of the chat template, what stands for the images in it."""
    prompt: str = _rendered(tokenizer, _content(parts), tokenize=False)
    return prompt


def image_placeholder(processor: Any) -> str:
    """What stands in a text for one image.

    It is what the chat template puts there, which may be more than the token (`<|vision_start|><|image_pad|><|vision_end|>`);
    without a template it is the token; and nothing where the processor knows of no token.
    """
    token = getattr(processor, "image_token", None)
    token = str(token) if token else ""
    if not chat_template(processor):
        return token
    try:
        plain = _rendered(processor, _content([MARK]), tokenize=False).partition(MARK)[0]
        pictured = _rendered(processor, [{"type": "image"}, *_content([MARK])], tokenize=False).partition(MARK)[0]
    except Exception:  # a template may refuse whatever its author did not think of
        return token
    same = next((i for i, (a, b) in enumerate(zip(plain, pictured, strict=False)) if a != b), min(len(plain), len(pictured)))
    before, after = plain[:same], plain[same:]
    found = str(pictured[len(before) : len(pictured) - len(after)])
    return found if found and pictured.endswith(after) else token


def _takes_strings(tokenizer: Any) -> bool:
    """Whether a plain string comes through the template; some of image-text models look for parts, and pass over it."""
    try:
        return MARK in _rendered(tokenizer, MARK, tokenize=False)
    except Exception:  # as above
        return False


def _content(parts: Sequence[str | ImageFile]) -> list[dict[str, str]]:
    return [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]


def _rendered(tokenizer: Any, content: Any, **how: Any) -> Any:
    own = tokenizer_of(tokenizer)
    template = chat_template(tokenizer)
    # The tokenizer renders with its own template where it can choose among several.
    named = {} if template == getattr(own, "chat_template", None) else {"chat_template": template}
    return own.apply_chat_template([{"role": "user", "content": content}], **named, **how)
