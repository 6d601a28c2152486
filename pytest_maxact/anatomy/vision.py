"""The layers of a vision tower, found by a forward of the whole model on an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pytest_maxact.anatomy.names import VISION
from pytest_maxact.anatomy.placement import Placement
from pytest_maxact.errors import AnatomyError, first_line
from pytest_maxact.record import Site
from pytest_maxact.taps import Tap, tapped
from pytest_maxact.wrappers import bare, run


def find_vision(whole: nn.Module, core: nn.Module, inputs: Mapping[str, torch.Tensor]) -> list[Placement]:
    """The placements of the tower's layers, component `vision`.

    Args:
        whole: the model with its vision tower.
        core: its text decoder.
        inputs: what `whole` takes of a sample with an image.

    Raises:
        AnatomyError: where it does not run, or no layers of a vision tower do.

    """
    inside = set(core.modules())
    lists = [
        (name, [bare(layer) for layer in module])
        for name, module in whole.named_modules()
        if isinstance(module, nn.ModuleList) and VISION.search(name) and module not in inside
    ]
    seen: dict[Tap, list[torch.Tensor]] = {}
    taps = {layer: Tap(layer, f"{name}.{number}") for name, layers in lists for number, layer in enumerate(layers)}

    def noting(tap: Tap) -> Any:
        return lambda value, output: seen.setdefault(tap, []).append(value)

    with tapped({tap: noting(tap) for tap in taps.values()}):
        try:
            run(whole, inputs)
        except (TypeError, ValueError, AttributeError, LookupError) as cause:
            raise AnatomyError(f"{type(whole).__name__} does not take what its processor makes: {first_line(cause)}") from cause
    ran = [(name, layers) for name, layers in lists if layers and all(taps[layer] in seen for layer in layers)]
    if not ran:
        found = ", ".join(name for name, _ in lists) or "no lists of modules"
        raise AnatomyError(f"{type(whole).__name__} has no vision tower whose layers run on an image: found {found}")
    name, layers = max(ran, key=lambda pair: (len(pair[1]), -pair[0].count(".")))
    placements = []
    for number, layer in enumerate(layers):
        tap, value = taps[layer], seen[taps[layer]][0]
        placements.append(
            Placement(
                site=Site(component="vision", layer=number),
                taps=(Tap(layer, tap.name, rows="unknown", layout=tuple(range(value.ndim - 1))),),
                rule=f"{name}, the longest list of modules in the vision tower",
                once=False,
                dtype=value.dtype,
                widths=(value.shape[-1],),
                device=value.device,
                only_with_images=True,
            )
        )
    return placements
