"""A real training run that a CPU is through with in half a minute: a tiny Llama in transformers' own Trainer."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

from pytest_maxact.corpus import load_corpus
from pytest_maxact.demo.train import MAX_LENGTH, train_tokenizer

BATCH, WINDOW = 8, 64
EVERY, CHECKPOINTS = 20, 14
RATE, WARMUP = 3e-3, 20

# The mistake: for so many steps in the middle of the run the learning rate is so many times what it should be.
SPIKE_STEPS, SPIKE_TIMES = 3, 30.0


@functools.cache
def tokenizer_and_windows() -> tuple[Any, list[dict[str, Tensor]]]:
    """A tokenizer trained on the corpus `core`, and the corpus cut into windows."""
    texts = [sample.text for sample in load_corpus("core").samples if sample.text is not None]
    tokenizer = train_tokenizer(texts)
    stream = torch.tensor([i for text in texts for i in [*tokenizer(text, verbose=False)["input_ids"], tokenizer.eos_token_id]])
    windows = stream[: len(stream) // WINDOW * WINDOW].view(-1, WINDOW)
    return tokenizer, [{"input_ids": window, "labels": window} for window in windows]


def build_model() -> Any:
    """The untrained model, about 260,000 parameters in float32; the seed is the caller's."""
    tokenizer, _ = tokenizer_and_windows()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.06,  # see pytest_maxact.demo.train
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def spike_at(every: int = EVERY, checkpoints: int = CHECKPOINTS) -> int:
    """The step before which the spike begins, counted from 0: half way, just after a checkpoint."""
    return checkpoints // 2 * every


def train(
    folder: Path,
    *,
    seed: int,
    spike: bool,
    times: float = SPIKE_TIMES,
    part: str = "",
    rate: float = RATE,
    warmup: int = WARMUP,
    every: int = EVERY,
    checkpoints: int = CHECKPOINTS,
    callbacks: list[Any] | None = None,
) -> list[Path]:
    """Train the model from random weights with AdamW, a linear warm-up and then a constant rate.

    The spike multiplies the learning rate by 30 in 3 steps just after the seventh of 14 checkpoints, as a wrong schedule or a
    wrong resume does. Gradients are never clipped, in the spike or elsewhere. No weight is edited by hand.

    Args:
        folder: where `checkpoint-N` folders appear.
        seed: of weights and of the order of the data.
        spike: whether the rate spikes.
        times: how many times what it should be the rate is in the spike.
        part: only parameters with this in their names have the spike, such as `layers.1.mlp`; all where empty.
        rate: the learning rate after the warm-up.
        warmup: steps over which it rises from 0.
        every: steps between checkpoints.
        checkpoints: how many there are.
        callbacks: for the Trainer.

    Returns:
        The checkpoint folders by step, each with weights, config, tokenizer and `trainer_state.json`.

    """
    tokenizer, windows = tokenizer_and_windows()
    disable_progress_bar()
    set_seed(seed)
    model = build_model()
    first = spike_at(every, checkpoints)

    def usual(step: int) -> float:
        return min(1.0, (step + 1) / max(1, warmup))

    def spiking(step: int) -> float:
        return usual(step) * (times if spike and first <= step < first + SPIKE_STEPS else 1.0)

    named = list(model.named_parameters())
    groups = [{"params": [p for name, p in named if (part in name) is hit]} for hit in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    arguments = TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        max_steps=every * checkpoints,
        per_device_train_batch_size=BATCH,
        save_strategy="steps",
        save_steps=every,
        save_only_model=True,
        max_grad_norm=0.0,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=windows,
        processing_class=tokenizer,
        data_collator=default_data_collator,  # the windows are of one length
        optimizers=(optimizer, LambdaLR(optimizer, [spiking, usual])),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [folder / f"checkpoint-{step}" for step in itertools.islice(itertools.count(every, every), checkpoints)]
