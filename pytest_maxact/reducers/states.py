"""States of reducers as named arrays, so that a run can be stopped, undone and spread over processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

State = TypeVar("State")
Named = Mapping[str, npt.NDArray[Any]]

SPARSE_FROM = 1 << 16  # elements; counts of bit patterns and mantissas are mostly zeros


def to_arrays(state: object) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a state (a dataclass or tuple of tensors and further states) by their paths, large sparse ones packed."""
    packed: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in _tensors(state, ""):
        array = tensor.detach().cpu().numpy()
        seen = np.flatnonzero(array) if array.size >= SPARSE_FROM else None
        if seen is not None and 4 * len(seen) < array.size:
            packed |= {f"{name}@": seen, f"{name}=": array.reshape(-1)[seen]}
        else:
            packed[name] = np.array(array)  # reducers go on changing their own
    return packed


def from_arrays(like: State, arrays: Named) -> State:
    """The state that these arrays are of.

    Args:
        like: a state of the same shape, such as one that has seen nothing.
        arrays: as `to_arrays` gave them.

    Raises:
        ValueError: where they are those of another state.

    """
    wanted = dict(_tensors(like, ""))
    unknown = {name.rstrip("@=") for name in arrays} - wanted.keys()
    if unknown:
        raise ValueError(f"there is no {min(unknown)}")
    return _filled(like, "", arrays)  # type: ignore[no-any-return]


def _tensors(state: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(state, torch.Tensor):
        yield path, state
    else:
        for name, part in _parts(state):
            yield from _tensors(part, f"{path}.{name}" if path else name)


def _parts(state: Any) -> Iterator[tuple[str, Any]]:
    if is_dataclass(state):
        yield from ((field.name, getattr(state, field.name)) for field in fields(state))
    elif isinstance(state, tuple):
        yield from ((str(number), part) for number, part in enumerate(state))
    else:
        assert state is None, f"a state holds tensors, not {state!r}"


def _filled(like: Any, path: str, arrays: Named) -> Any:
    if isinstance(like, torch.Tensor):
        return torch.from_numpy(_unpacked(like, path, arrays)).to(like.device)
    parts = {name: _filled(part, f"{path}.{name}" if path else name, arrays) for name, part in _parts(like)}
    if isinstance(like, tuple):
        return tuple(parts.values())
    return None if like is None else replace(like, **parts)


def _unpacked(like: torch.Tensor, name: str, arrays: Named) -> npt.NDArray[Any]:
    template = np.empty(0, dtype=str(like.dtype).removeprefix("torch."))
    try:
        if name in arrays:
            array = arrays[name]
        else:
            seen, values = arrays[f"{name}@"], arrays[f"{name}="]
            array = np.zeros(like.numel(), dtype=template.dtype)
            sound = seen.dtype == np.int64 and seen.ndim == 1 and seen.shape == values.shape and values.dtype == template.dtype
            if not sound or not bool((np.diff(seen) > 0).all()) or (len(seen) and not 0 <= seen[0] <= seen[-1] < array.size):
                raise ValueError(f"{name} is damaged")
            array[seen] = values
            array = array.reshape(tuple(like.shape))
    except KeyError:
        raise ValueError(f"{name} is missing") from None
    if array.dtype != template.dtype or array.shape != tuple(like.shape):
        raise ValueError(f"{name} is {array.dtype} {array.shape}, not {template.dtype} {tuple(like.shape)}")
    return np.array(array)  # its own memory: what was read from a file may not be written to
