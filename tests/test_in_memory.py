"""In a notebook or a training loop the model goes on being used: its wrappers must not matter, and nothing of it may change."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import nn
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from pytest_maxact.benchmark import overhead
from pytest_maxact.corpus import Corpus, Sample
from pytest_maxact.errors import AnatomyError, MeasurementError
from pytest_maxact.record import Measurement
from pytest_maxact.runner import measure
from tests.conftest import hooked, replace_forward, tiny_model

# Names of transformers that PEFT and training loops still use.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")

IDS = torch.tensor([[17, 30, 401, 8, 99, 250, 3], [77, 5, 12, 300, 42, 42, 19]])
BATCHES = [{"input_ids": IDS}, {"input_ids": IDS.flip(1)}]
SHARDED_ADVICE = r"measure a checkpoint that it saved, or a whole copy in one process$"


def language_model(family: str = "llama", **sizes: Any) -> Any:
    """A tiny model with a language-model head, in training mode."""
    model = AutoModelForCausalLM.from_config(tiny_model(family, **sizes).config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model.train()


def same_figures(one: Measurement, other: Measurement) -> bool:
    """Whether two records agree in all but times."""
    return one.model_dump(exclude={"timing"}) == other.model_dump(exclude={"timing"})


def max_of(record: Measurement, component: str, layer: int) -> float:
    site = record.site(component, layer)
    assert site is not None
    return site.value


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """One process that is all of its group."""
    init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    destroy_process_group()


class Compiler:
    """A backend of torch.compile."""

    graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        """Count a graph, and run it as it is."""
        self.graphs += 1
        return graph.forward


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    """A fresh compiler that forgets afterwards what it compiled."""
    yield Compiler()
    torch.compiler.reset()


# --- Wrapped models.


@pytest.mark.usefixtures("process_group")
def test_a_wrapped_model_gives_the_record_of_the_model_inside(compiler: Compiler) -> None:
    model = language_model()
    plain = measure(model, batches=BATCHES)
    assert (plain.model.id, len(plain.sites)) == ("LlamaForCausalLM", 14)
    wrapped: list[Any] = [
        DistributedDataParallel(model),
        DataParallel(model),
        torch.compile(model, backend=compiler),
        torch.compile(DistributedDataParallel(model), backend=compiler),
        DistributedDataParallel(torch.compile(model, backend=compiler)),
    ]
    for wrapper in wrapped:
        assert same_figures(measure(wrapper, batches=BATCHES), plain)
    assert compiler.graphs == 0


def compile_whole(model: Any, compiler: Compiler) -> None:
    model.model.compile(backend=compiler)


def compile_layers_in_place(model: Any, compiler: Compiler) -> None:
    for layer in model.model.layers:
        layer.compile(backend=compiler)


def compile_layers(model: Any, compiler: Compiler) -> None:
    for number, layer in enumerate(model.model.layers):
        model.model.layers[number] = torch.compile(layer, backend=compiler)


def compile_parts(model: Any, compiler: Compiler) -> None:
    model.model.embed_tokens = torch.compile(model.model.embed_tokens, backend=compiler)
    for layer in model.model.layers:
        layer.mlp.gate_proj = torch.compile(layer.mlp.gate_proj, backend=compiler)
        layer.mlp = torch.compile(layer.mlp, backend=compiler)
        layer.self_attn = torch.compile(layer.self_attn, backend=compiler)


def compile_decoder(model: Any, compiler: Compiler) -> None:
    model.model = torch.compile(model.model, backend=compiler)


def compile_forward(model: Any, compiler: Compiler) -> None:
    model.model.forward = torch.compile(model.model.forward, backend=compiler)


@pytest.mark.parametrize(
    "compile_it",
    [compile_whole, compile_layers_in_place, compile_layers, compile_parts, compile_decoder, compile_forward],
)
def test_compiled_parts_are_observed_as_written_and_compiled_no_more(
    compile_it: Callable[[Any, Compiler], None], compiler: Compiler
) -> None:
    model = language_model()
    plain = measure(model, batches=BATCHES)
    compile_it(model, compiler)
    assert same_figures(measure(model, batches=BATCHES), plain)
    assert compiler.graphs == 0

    with torch.no_grad():
        before = model(IDS).logits
    compiled = compiler.graphs
    assert compiled > 0
    assert same_figures(measure(model, batches=BATCHES), plain)
    with torch.no_grad():
        after = model(IDS).logits
    assert torch.equal(before, after)
    assert compiler.graphs == compiled


def test_layers_wrapped_for_activation_checkpointing_keep_all_their_sites() -> None:
    model = language_model()
    plain = measure(model, batches=BATCHES)
    for number, layer in enumerate(model.model.layers):
        model.model.layers[number] = checkpoint_wrapper(layer)
    assert same_figures(measure(model, batches=BATCHES), plain)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of FSDP: deprecated, one process, no GPU
@pytest.mark.usefixtures("process_group")
def test_a_model_sharded_by_fsdp_is_refused() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    with pytest.raises(AnatomyError, match=rf"^the model is sharded \(FSDPModule\): {SHARDED_ADVICE}"):
        measure(fully_shard(language_model()), batches=BATCHES)
    inside = language_model()
    inside.model.layers[1] = FullyShardedDataParallel(inside.model.layers[1], device_id=torch.device("cpu"))
    with pytest.raises(AnatomyError, match=rf"^the model is sharded \(FullyShardedDataParallel\): {SHARDED_ADVICE}"):
        measure(inside, batches=BATCHES)


@pytest.mark.usefixtures("process_group")
def test_a_model_of_distributed_tensors_is_refused() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    model = language_model()
    weight = distribute_tensor(model.lm_head.weight.detach(), init_device_mesh("cpu", (1,)))
    model.lm_head.weight = nn.Parameter(weight)
    with pytest.raises(AnatomyError, match=rf"^the model is sharded \(its parameters are DTensors\): {SHARDED_ADVICE}"):
        measure(model, batches=BATCHES)


def test_a_model_sharded_by_deepspeed_is_refused() -> None:
    model = language_model()
    model.lm_head.weight.ds_id = 0  # what stage 3 of ZeRO puts on each parameter
    with pytest.raises(AnatomyError, match=rf"^the model is sharded \(DeepSpeed ZeRO stage 3\): {SHARDED_ADVICE}"):
        measure(model, batches=BATCHES)


def test_the_cost_of_observing_is_that_of_the_model_inside() -> None:
    corpus = Corpus("ids", (Sample("a", "x", input_ids=tuple(IDS[0].tolist())),))
    assert overhead(DataParallel(language_model()), None, corpus).tokens == 7


# --- Adapters of PEFT.


def lora(**config: Any) -> peft.LoraConfig:
    return peft.LoraConfig(r=4, task_type="CAUSAL_LM", **config)


def stir(model: Any) -> Any:
    """Give adapters other weights than the zeros they start with."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return model


def adapted(model: Any, *, mixed: bool = False, **config: Any) -> Any:
    """The model with LoRA adapters of PEFT."""
    return stir(peft.get_peft_model(model, lora(**config), mixed=mixed))


ADAPTED = {
    "linear": {"target_modules": "all-linear"},
    "mixed": {"target_modules": ["gate_proj", "o_proj"], "mixed": True},
    "dora": {"target_modules": ["gate_proj", "down_proj"], "use_dora": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "saved embedding": {"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens", "norm"]},
}


@pytest.mark.parametrize("config", ADAPTED.values(), ids=ADAPTED.keys())
def test_adapters_count_as_they_do_when_merged(config: dict[str, Any]) -> None:
    base = measure(language_model(), batches=BATCHES)
    model = adapted(language_model(), **config).train()
    found = measure(model, batches=BATCHES)
    assert found.model.id == "LlamaForCausalLM"
    assert [(site.component, site.layer) for site in found.sites] == [(site.component, site.layer) for site in base.sites]
    assert found.notes == base.notes
    assert any(module.training for module in model.modules())
    merged = measure(model.merge_and_unload(), batches=BATCHES)
    for site, alone in zip(found.sites, merged.sites, strict=True):
        assert (site.max, site.min) == pytest.approx((alone.max, alone.min), rel=1e-4)
    assert max_of(found, "hidden", 2) != pytest.approx(max_of(base, "hidden", 2), rel=1e-3)


def test_adapters_that_transformers_put_there_itself_count_the_same() -> None:
    around = measure(adapted(language_model(), target_modules=["gate_proj", "o_proj"]), batches=BATCHES)
    model = language_model()
    model.add_adapter(lora(target_modules=["gate_proj", "o_proj"]))
    assert same_figures(measure(stir(model), batches=BATCHES), around)


def test_adapters_that_are_switched_off_do_not_count() -> None:
    base = measure(language_model(), batches=BATCHES)
    model = adapted(language_model(), target_modules="all-linear")
    with model.disable_adapter():
        off = measure(model, batches=BATCHES)
    assert [(site.max, site.min) for site in off.sites] == [(site.max, site.min) for site in base.sites]


@pytest.mark.usefixtures("process_group")
def test_adapters_are_found_in_other_wrappers_and_around_them(compiler: Compiler) -> None:
    model = adapted(language_model(), target_modules="all-linear")
    plain = measure(model, batches=BATCHES)
    around: list[Any] = [DistributedDataParallel(model), torch.compile(model, backend=compiler), DataParallel(model)]
    for wrapper in [*around, torch.compile(around[0], backend=compiler)]:
        assert same_figures(measure(wrapper, batches=BATCHES), plain)
    model.base_model.model = torch.compile(model.base_model.model, backend=compiler)
    assert same_figures(measure(model, batches=BATCHES), plain)
    assert compiler.graphs == 0


VIRTUAL = {
    "PROMPT_TUNING": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "PREFIX_TUNING": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_are_refused(kind: str) -> None:
    model = peft.get_peft_model(language_model(), VIRTUAL[kind])
    expected = rf"^{kind} of PEFT puts virtual tokens before each sample: measure model\.get_base_model\(\)$"
    with pytest.raises(AnatomyError, match=expected):
        measure(model, batches=BATCHES)
    measure(model.get_base_model(), batches=BATCHES)


def test_adapters_that_peft_steers_from_outside_are_refused() -> None:
    expected = r"^activated LORA of PEFT steers its adapters from outside the model: measure one that they are merged into$"
    with pytest.raises(AnatomyError, match=expected):
        measure(adapted(language_model(), target_modules=["q_proj"], alora_invocation_tokens=[5]), batches=BATCHES)
    poly = peft.PolyConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], n_tasks=2, r=4)
    with pytest.raises(AnatomyError, match=r"^POLY of PEFT steers its adapters from outside the model"):
        measure(peft.get_peft_model(language_model(), poly), batches=BATCHES)


# --- Nothing of the user's changes.


def training_step(model: Any) -> tuple[float, torch.Tensor]:
    """The loss of a step with dropout, and one gradient of it."""
    model.zero_grad()
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    return loss.item(), model.get_input_embeddings().weight.grad.clone()


def shuffled() -> DataLoader[Any]:
    rows: Any = [{"input_ids": row} for row in IDS]
    return DataLoader(rows, shuffle=True)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_training_step_goes_as_if_nothing_had_been_measured(family: str) -> None:
    model = language_model(family, attention_dropout=0.3) if family == "llama" else language_model(family)
    torch.manual_seed(7)
    expected = training_step(model)
    other = training_step(model)
    assert other[0] != expected[0]  # there is dropout

    torch.manual_seed(7)
    measure(model, batches=shuffled())
    loss, gradient = training_step(model)
    assert loss == expected[0]
    assert torch.equal(gradient, expected[1])


def test_random_generators_go_on_as_if_nothing_had_been_drawn() -> None:
    model = language_model()

    def draw(*_: Any) -> None:
        torch.rand(1), random.random(), np.random.random()

    model.model.layers[0].register_forward_hook(draw)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)
    measure(model, batches=BATCHES)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    np.testing.assert_equal(np.random.get_state(legacy=False), states[2])


def test_a_gradient_can_be_had_of_a_loss_from_before() -> None:
    model = language_model()
    expected = training_step(model)[1]
    model.zero_grad()
    loss = model(IDS, labels=IDS).loss
    measure(model, batches=BATCHES)
    loss.backward()
    assert torch.equal(model.get_input_embeddings().weight.grad, expected)


def test_what_a_model_keeps_of_a_forward_serves_in_training_too() -> None:
    model = language_model()
    scales: list[torch.Tensor] = []

    def scale(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        if not scales:
            scales.append(torch.full((32,), 2.0))
        return output * scales[0]

    model.model.embed_tokens.register_forward_hook(scale)
    measure(model, batches=BATCHES)
    training_step(model)  # saves the table for backward


def test_modes_gradients_and_settings_are_the_same_objects_and_values() -> None:
    model = language_model()
    training_step(model)
    model.model.layers[1].eval()
    model.model.layers[0].requires_grad_(False)
    model.config.use_cache = True
    parameters = list(model.parameters())

    def state() -> list[Any]:
        return [
            [module.training for module in model.modules()],
            [parameter.requires_grad for parameter in model.parameters()],
            [id(parameter.grad) for parameter in model.parameters()],
            [parameter._version for parameter in model.parameters()],
            list(map(id, model.parameters())),
            model.config.to_dict(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu"),
        ]

    before, gradients = state(), [parameter.grad.clone() for parameter in parameters]
    measure(model, batches=BATCHES)
    assert state() == before
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_a_module_that_acts_on_eval_is_not_told_of_it() -> None:
    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> Merging:
            raise AssertionError("a layer would merge its adapter here")

    model = language_model()
    model.model.layers[0].mlp.gate_proj = Merging(32, 48)
    measure(model, batches=BATCHES)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_default_dtype_changes_no_figure(dtype: torch.dtype) -> None:
    model = language_model()
    plain = measure(model, batches=BATCHES)
    torch.set_default_dtype(dtype)
    try:
        found = measure(model, batches=BATCHES)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert same_figures(found, plain)


def test_another_default_device_changes_no_figure() -> None:
    model = language_model()
    corpus = Corpus("ids", (Sample("a", "x", input_ids=tuple(IDS[0].tolist())),))
    plain, of_batches = measure(model, corpus=corpus), measure(model, batches=BATCHES)
    with torch.device("meta"):  # where a tensor that was meant for the host holds no values
        assert same_figures(measure(model, corpus=corpus), plain)
        assert same_figures(measure(model, batches=BATCHES), of_batches)


def test_hooks_of_the_users_own_are_called_as_ever_and_stay_in_order() -> None:
    model = language_model()
    layer, called = model.model.layers[1], []
    layer.register_forward_pre_hook(lambda *_: called.append("before"))
    layer.register_forward_hook(lambda *_: called.append("first"))
    layer.register_forward_hook(lambda *_: called.append("second"), always_call=True)
    plain = measure(model, batches=BATCHES)
    assert called == ["before", "first", "second"] * 3  # the probe and two batches
    assert hooked(model) == ["model.layers.1"]
    called.clear()
    model(IDS)
    assert called == ["before", "first", "second"]

    layer.register_forward_hook(lambda module, args, output: output * 3)  # what a hook makes of an output is what counts
    tripled = measure(model, batches=BATCHES)
    assert max_of(tripled, "hidden", 1) == pytest.approx(3 * max_of(plain, "hidden", 1))


@pytest.mark.parametrize("failing_call", [1, 3], ids=["while probing", "in the second batch"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_whatever_stops_a_forward_leaves_the_model_as_it_was(error: type[BaseException], failing_call: int) -> None:
    model = language_model()

    def stop(*args: Any, **kwargs: Any) -> torch.Tensor:
        raise error

    replace_forward(model.model.layers[2], stop, from_call=failing_call)
    generator = torch.get_rng_state()
    with pytest.raises(error):
        measure(model, batches=shuffled())
    assert hooked(model) == []
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), generator)


def test_whatever_stops_progress_leaves_a_compiled_model_as_it_was(compiler: Compiler) -> None:
    model = language_model()
    model.model.compile(backend=compiler)

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(model, batches=BATCHES, progress=stop)
    assert hooked(model) == []
    assert compiler.graphs == 0
    model(IDS)
    assert compiler.graphs > 0  # compilation is on again


def test_measuring_while_an_exception_is_handled_keeps_it() -> None:
    def fail() -> None:
        try:
            raise ZeroDivisionError("the loss")
        except ZeroDivisionError:
            measure(language_model(), batches=BATCHES)
            raise

    with pytest.raises(ZeroDivisionError, match="the loss") as caught:
        fail()
    assert caught.value.__context__ is None


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradient_checkpointing_stays_on_and_runs_no_site_twice(family: str, reentrant: bool) -> None:
    model = language_model(family)
    plain = measure(model, batches=BATCHES)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()  # a hook that marks the embedding's output
    checkpointed = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    assert len(checkpointed) >= 3
    assert same_figures(measure(model, batches=BATCHES), plain)
    assert all(module.gradient_checkpointing for module in checkpointed)
    assert training_step(model)[1].abs().sum() > 0


def test_autocast_is_refused_in_one_line() -> None:
    model = language_model()
    expected = r"^autocast to bfloat16 is on: measure outside of it, in the model's own dtype$"
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(MeasurementError, match=expected):
            measure(model, batches=BATCHES)
        with torch.autocast("cpu", enabled=False):
            inside = measure(model, batches=BATCHES)
    assert same_figures(inside, measure(model, batches=BATCHES))
