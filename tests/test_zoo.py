"""The zoo is what the finding of sites is tried on: a model that is missing from it, or dead, would show nothing."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from tests.zoo import UNBUILDABLE, Entry, build, entries, text_model

SOME = [entry for entry in entries() if entry not in UNBUILDABLE][::24]  # of all of them, each 24th by default


def run(entry: Entry, model: nn.Module) -> torch.Tensor:
    """What the first tensor of the text model's output is, for two tokens."""
    ids = torch.tensor([[3, 7]])
    with torch.no_grad():
        output = text_model(entry, model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    tensor: torch.Tensor = next(value for value in output.values() if isinstance(value, torch.Tensor))
    return tensor


def assert_alive(entry: Entry) -> None:
    output = run(entry, build(entry))
    assert output.shape[1] == 2
    assert output.isfinite().all()
    assert 0.05 < float(output.abs().max()) < 1e4


def test_every_entry_of_transformers_is_there_once() -> None:
    assert len(entries()) == len(set(entries())) >= 286
    assert set(UNBUILDABLE) <= set(entries())
    assert len(entries()) - len(UNBUILDABLE) >= 240


@pytest.mark.parametrize("entry", SOME, ids=str)
def test_a_model_is_alive_and_the_same_for_the_same_seed(entry: Entry) -> None:
    assert_alive(entry)
    one, again, other = (run(entry, build(entry, seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.coverage
@pytest.mark.parametrize("entry", [entry for entry in entries() if entry not in SOME and entry not in UNBUILDABLE], ids=str)
def test_every_other_model_is_alive(entry: Entry) -> None:
    assert_alive(entry)


@pytest.mark.parametrize("entry", UNBUILDABLE, ids=str)
def test_none_is_left_out_that_could_be_built(entry: Entry) -> None:
    with pytest.raises((ImportError, ValueError, StrictDataclassError)):
        run(entry, build(entry))
