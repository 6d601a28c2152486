"""A model that sees is measured on images as well: its tower's layers, and what tokens of text and of images hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from pytest_maxact import Measurement, measure
from pytest_maxact.anatomy import find_sites
from pytest_maxact.batching import Batch
from pytest_maxact.corpus import load_corpus
from pytest_maxact.errors import AnatomyError
from pytest_maxact.record import Site
from pytest_maxact.report.terminal import summary
from pytest_maxact.runner import deal_out
from tests import image_text
from tests.image_text import ImageText

Make = Callable[[PreTrainedTokenizerFast], ImageText]

# The lists of layers of tower and decoder, by hand.
TOWERS: list[tuple[Make, str, str]] = [
    (image_text.llava, "vision_tower.encoder.layers", "language_model.layers"),
    (image_text.idefics3, "vision_model.encoder.layers", "text_model.layers"),
    (image_text.gemma3, "vision_tower.encoder.layers", "language_model.layers"),
    (image_text.qwen2_vl, "visual.blocks", "language_model.layers"),
    (image_text.mllama, "vision_model.transformer.layers", "language_model.layers"),
    (image_text.paligemma, "vision_tower.encoder.layers", "language_model.layers"),
]
NAMES = [make.__name__ for make, *_ in TOWERS]


def tensor(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


def seen_by_hand(
    model: Any, batches: list[Batch], lists: dict[str, str]
) -> dict[tuple[str, int], list[tuple[Batch, torch.Tensor]]]:
    """What each layer of the named lists gave for each batch."""
    seen: dict[tuple[str, int], list[tuple[Batch, torch.Tensor]]] = {}
    current: list[Batch] = []
    handles = []
    for component, name in lists.items():
        for number, layer in enumerate(model.get_submodule(name)):
            key = (component, number)
            handles.append(
                layer.register_forward_hook(
                    lambda module, args, output, key=key: seen.setdefault(key, []).append((current[-1], tensor(output).clone()))
                )
            )
    with torch.no_grad():
        for batch in batches:
            current.append(batch)
            (model if batch.extra else model.get_decoder())(**batch.inputs(torch.device("cpu")), use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def measured(kind: ImageText, corpus: str, samples: int) -> tuple[Any, Measurement, list[Batch]]:
    model = kind.model()
    chosen = load_corpus(corpus).first(samples)
    work = deal_out(model, find_sites(model), kind.processor, chosen, 160, "none", 512)
    return model, measure(model, kind.processor, chosen, max_length=160, batch_tokens=512), work.batches


@pytest.mark.parametrize(("make", "tower", "decoder"), TOWERS, ids=NAMES)
def test_layers_of_tower_and_decoder_hold_what_hooks_by_hand_see(
    make: Make, tower: str, decoder: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model, record, batches = measured(make(tokenizer), "images", 4)
    seen = seen_by_hand(model, batches, {"vision": tower, "hidden": decoder})
    layers = {(site.component, site.layer) for site in record.sites if site.component in ("vision", "hidden")}
    assert layers == set(seen)
    for (component, layer), values in seen.items():
        site = record.site(component, layer)
        assert site is not None
        assert site.value == max(float(value.abs().max()) for _, value in values)
        assert site.count == sum(value.numel() for _, value in values)
        assert not (component == "vision" and site.part_of_m)


def test_layers_that_only_images_reach_are_observed_on_images_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    kind = image_text.mllama(tokenizer)
    _, record, batches = measured(kind, "images+smoke", 24)
    texts = measured(kind, "smoke", 4)[1]
    images = sum(batch.tokens for batch in batches if batch.extra)
    assert {record.site(name, 1) is not None for name in ("mlp", "gate", "hidden")} == {True}
    hidden, other = record.site("hidden", 1), record.site("hidden", 0)
    assert hidden is not None
    assert other is not None
    assert (hidden.count, other.count) == (32 * images, 32 * record.corpus.tokens)
    assert [site.layer for site in record.sites if site.component == "hidden"] == [0, 1, 2]
    assert not any("images" in note for note in record.notes)
    assert texts.site("hidden", 1) is None
    assert "not observed: layer 1, which run only with images" in texts.notes
    peaks = record.hidden_peaks[1]
    pictured = [bool(sample.id.startswith("image")) for sample in record.samples]
    assert [not bool(missing) for missing in (peaks != peaks)] == pictured


@pytest.mark.parametrize("make", [image_text.llava, image_text.qwen2_vl], ids=["llava", "qwen2_vl"])
def test_peaks_of_text_and_of_images_are_told_apart(make: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    model, record, batches = measured(make(tokenizer), "images+smoke", 24)
    assert any(not batch.extra for batch in batches)
    assert sum(peak.tokens for peak in record.modalities) == record.corpus.tokens
    seen = seen_by_hand(model, batches, {"hidden": "language_model.layers"})
    largest = {"text": 0.0, "image": 0.0}
    counts = {"text": 0, "image": 0}
    for batch in batches:
        image = torch.zeros_like(batch.mask) if batch.image is None else batch.image
        counts["image"] += int((image & batch.mask).sum())
        counts["text"] += int((~image & batch.mask).sum())
    for values in seen.values():
        for batch, value in values:
            image = torch.zeros_like(batch.mask) if batch.image is None else batch.image
            for modality, rows in (("text", ~image & batch.mask), ("image", image & batch.mask)):
                largest[modality] = max([largest[modality], *value[rows].abs().flatten().tolist()])
    assert {peak.modality: peak.tokens for peak in record.modalities} == counts
    for peak in record.modalities:
        assert peak.value >= largest[peak.modality]
        if peak.component == "hidden":
            assert peak.value == largest[peak.modality]
    assert max(peak.value for peak in record.modalities) == (record.peak.value if record.peak else None)


def test_an_image_tokens_peak_is_found_at_its_place(tokenizer: PreTrainedTokenizerFast) -> None:
    kind = image_text.llava(tokenizer)
    model = kind.model()
    image_token = model.config.image_token_id
    chosen = load_corpus("images").first(3)
    last = model.get_decoder().layers[-1]

    def blow_up(module: Any, args: Any, output: Any) -> Any:
        value = tensor(output).clone()
        value[:, 1] += 0 if value.shape[1] < 3 else 5000  # a token inside the image, which stands first
        return value if isinstance(output, torch.Tensor) else (value, *output[1:])

    handle = last.register_forward_hook(blow_up)
    record = measure(model, kind.processor, chosen)
    handle.remove()
    image = next(peak for peak in record.modalities if peak.modality == "image")
    text = next(peak for peak in record.modalities if peak.modality == "text")
    assert (image.component, image.layer, image.position) == ("hidden", 2, 1)
    assert image.token == kind.processor.tokenizer.decode([image_token])
    assert image.value > 4000 > text.value


def test_a_corpus_of_texts_has_no_modalities_and_no_tower(tokenizer: PreTrainedTokenizerFast) -> None:
    _, record, _ = measured(image_text.llava(tokenizer), "smoke", 3)
    assert record.modalities == []
    assert all(site.component != "vision" for site in record.sites)
    assert not any("vision" in line for line in summary(record, None))


def test_the_summary_tells_what_each_modality_holds(tokenizer: PreTrainedTokenizerFast) -> None:
    _, record, _ = measured(image_text.llava(tokenizer), "images", 3)
    text = " ".join(" ".join(summary(record, None)).split())
    tower = max((site for site in record.sites if site.component == "vision"), key=lambda site: site.value)
    for peak in record.modalities:
        where = Site(component=peak.component, layer=peak.layer)
        assert f"{peak.tokens:,} {peak.modality} tokens hold {peak.value:.4g} ({where})" in text
    assert f"the vision tower {tower.value:.4g} (layer {tower.layer}), which is not in M" in text


def test_a_model_whose_tower_is_not_found_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    kind = image_text.llava(tokenizer)
    model = kind.model()
    model.vision_tower.encoder.layers = torch.nn.Sequential(*model.vision_tower.encoder.layers)
    with pytest.raises(AnatomyError, match="LlavaModel has no vision tower whose layers run on an image: found no lists"):
        measure(model, kind.processor, load_corpus("images").first(1))
