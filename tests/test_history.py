"""Records of checkpoints that may be gone count as history only where they can be compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pytest_maxact.history import recorded
from pytest_maxact.record import Measurement
from pytest_maxact.runner import measure
from tests.conftest import tiny_model


@pytest.fixture
def record() -> Measurement:
    return measure(tiny_model(), batches=[{"input_ids": torch.tensor([[5, 6, 7]])}])


def test_only_earlier_steps_count_once_and_in_order(tmp_path: Path, record: Measurement) -> None:
    for folder, steps in (("one", (300, 100, 500)), ("two", (200, 100))):
        (tmp_path / folder).mkdir()
        for step in steps:
            record.save(tmp_path / folder / f"checkpoint-{step}.json")
    record.save(tmp_path / "one" / "final.json")
    points = recorded([tmp_path / "one", tmp_path / "two", tmp_path / "none"], record, before=500)
    assert [(point.label, point.step) for point in points] == [(f"checkpoint-{step}", step) for step in (100, 200, 300)]


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("model", {"layers": 4}),
        ("model", {"dtype": "bfloat16"}),
        ("corpus", {"digest": "another"}),
        ("corpus", {"tokens": 4}),
        ("corpus", {"max_length": 2}),
        ("corpus", {"special_tokens": "chat"}),
    ],
)
def test_a_record_made_otherwise_is_no_history(
    tmp_path: Path, record: Measurement, part: str, changes: dict[str, object]
) -> None:
    other = record.model_copy(update={part: getattr(record, part).model_copy(update=changes)})
    other.save(tmp_path / "checkpoint-100.json")
    record.save(tmp_path / "checkpoint-200.json")
    (tmp_path / "checkpoint-300.json").write_text('{"schema": "maxact/measurement@0"}')
    assert [point.step for point in recorded([tmp_path], record, before=500)] == [200]
