"""The token ids that a model may be given, and what the special-token policy puts before each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_maxact.errors import CorpusError
from pytest_maxact.prompts import MARK, SpecialTokens, chat_prefix, tokenizer_of


@dataclass(frozen=True)
class Vocabulary:
    """What a model's tokens are.

    ids: the token ids that the tokenizer has, ascending; without a tokenizer all that the model has an embedding for.
    prefix: the token ids that the special-token policy puts before a text.
    notes: in words what is left out, and where the policy changes nothing.
    """

    ids: tuple[int, ...]
    prefix: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, tokenizer: Any, size: int, special_tokens: SpecialTokens) -> Vocabulary:
        """The vocabulary of a model with `size` rows of token embeddings.

        Args:
            tokenizer: a transformers tokenizer, or a processor that has one; None where the model came without.
            size: how many token ids the model takes.
            special_tokens: `tokenizer` puts before a text what the tokenizer does, `chat` what its chat template does.

        Raises:
            CorpusError: where the policy needs a tokenizer and there is none, or what it puts before a text cannot be told.

        """
        own = tokenizer_of(tokenizer)
        if own is None:
            if special_tokens != "none":
                raise CorpusError(
                    f"--maxact-special-tokens={special_tokens} needs a tokenizer, and the model came without one: pass it, or "
                    "use --maxact-special-tokens=none"
                )
            return cls(tuple(range(size)))
        given = set(own.get_vocab().values())
        known = sorted(id_ for id_ in given if 0 <= id_ < size)
        if not known:
            raise CorpusError("the tokenizer has no token that the model has an embedding for: use the model's own tokenizer")
        notes = []
        if len(known) < size:
            notes.append(
                f"{size - len(known):,} of {size:,} token ids are left out of the vocabulary: the tokenizer has no such tokens"
            )
        if len(known) < len(given):
            notes.append(
                f"{len(given) - len(known):,} tokens are left out of the vocabulary: the model has no embedding of them"
            )
        prefix = _prefix(tokenizer, special_tokens)
        if special_tokens == "tokenizer" and not prefix:
            notes.append("the tokenizer puts nothing before a text: drawn tokens ran as with --maxact-special-tokens=none")
        return cls(tuple(known), prefix, tuple(notes))


def _prefix(tokenizer: Any, special_tokens: SpecialTokens) -> tuple[int, ...]:
    if special_tokens == "none":
        return ()
    encode = tokenizer_of(tokenizer)
    if special_tokens == "chat":
        before = chat_prefix(tokenizer)
        if before is not None:
            return tuple(encode(before, add_special_tokens=False, verbose=False)["input_ids"])
        raise CorpusError("the chat template leaves out what the user says: use --maxact-special-tokens=none or =tokenizer")
    bare = encode(MARK, add_special_tokens=False, verbose=False)["input_ids"]
    full = encode(MARK, verbose=False)["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return tuple(full[:start])
    raise CorpusError("what the tokenizer puts before a text cannot be told: use --maxact-special-tokens=none")
