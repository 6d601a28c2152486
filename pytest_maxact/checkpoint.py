"""Checkpoints: find one by hub id, folder, GGUF file or demo name, make sure that it is safe and whole, load it.

An adapter of PEFT is one, too, with the base model that it names; `quantized.py` knows which weights are more than numbers.
Only safetensors and GGUF are read: pickled weights can run code. A checkpoint's own Python code runs only where asked for.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pytest_maxact import adapters, hub, quantized
from pytest_maxact.corpus import Corpus
from pytest_maxact.demo import DEMO_NAMES, demo_folder
from pytest_maxact.errors import CheckpointError, SettingsError, on_one_line, shortened
from pytest_maxact.errors import first_line as _first_line
from pytest_maxact.files import MAX_SMALL_FILE, check_folder, parse_json, read
from pytest_maxact.gguf_header import read_numbers
from pytest_maxact.prompts import is_processor
from pytest_maxact.tokenizer import TOKENIZER_PATTERNS, holds_tokenizer, quiet_transformers

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TRAINERS_OWN = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")  # beside the weights, and none
# What a repository's decoder and tokenizer need besides the weights.
SMALL_FILES = (
    "config.json",
    adapters.CONFIG,
    INDEX,
    *TOKENIZER_PATTERNS,
    "chat_template*",
    "*processor_config.json",
    "*.py",
)
LACKING = re.compile(r"(requires (the )?|dependencies: )`?(?P<library>torchvision|PIL|Pillow)\b", re.IGNORECASE)
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
BALANCED = "balanced"  # the device that is all there are
# Of what a config counts a library makes lists, before anything of it is checked; no model is near the limit.
COUNTED = re.compile(r"layer|depth|block_count|expert|head|label|stage|group", re.IGNORECASE)
MAX_COUNTED = 100_000
MAX_NUMBER = (1 << 63) - 1  # of a config; tensors know no larger one
MAX_SIZE = (1 << 31) - 1  # of a dimension of the model
MAX_SHARDS = 10_000  # files of weights, usually of 5 GB each

Remembered = Callable[[Sequence[Path], Callable[[Sequence[Path]], str]], str]


@dataclass(frozen=True)
class Reference:
    """A checkpoint that was found and looks whole.

    `id` names it in records: the hub id, or the last part of a path. `repository` is set where weights come from the Hub,
    and `revision` is then the commit. `weights` are file names in `folder`, known once they are there; so are
    `fingerprint`, the sha256 over config and weights, and `stamps`, size and time (ns) of each of these files then.
    Of an adapter `base` is the model that it is put on, whose config `config` is; the fingerprint covers both.
    """

    id: str
    folder: Path
    config: Any
    weights: tuple[str, ...] = ()
    gguf: str | None = None
    repository: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    fingerprint: str | None = None
    stamps: tuple[tuple[int, int], ...] = ()
    base: Reference | None = None

    @property
    def named(self) -> str:
        """Its id, with the revision where it has one."""
        return f"{self.id}@{self.revision}" if self.revision else self.id

    @property
    def origin(self) -> str | None:
        """What its config says the weights were loaded from before they were saved here, as transformers 4 wrote there."""
        if self.gguf is not None or self.base is not None:  # a config.json beside it is another checkpoint's
            return None
        try:
            named = parse_json(read(self.folder / "config.json", MAX_SMALL_FILE).decode()).get("_name_or_path")
        except (OSError, ValueError, AttributeError):
            return None
        return named if isinstance(named, str) else None

    @property
    def files(self) -> list[Path]:
        """What the fingerprint is over, the base model's files left out."""
        config = () if self.gguf else (adapters.CONFIG,) if self.base else ("config.json",)
        return [self.folder / name for name in config + self.weights]

    @property
    def text_config(self) -> Any:
        """The transformers config of the text decoder."""
        return self.config.get_text_config(decoder=True)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model, in evaluation mode, and its tokenizer where it has one.

    The model has no head where it works without one. `notes` say in words how it is not what the files say.
    """

    reference: Reference
    model: nn.Module
    tokenizer: Any
    notes: tuple[str, ...] = ()

    def preprocessor(self, corpus: Corpus) -> Any:
        """What makes inputs of the corpus's samples: the tokenizer, or the processor where there are images among them.

        Raises:
            CheckpointError: where the checkpoint has no processor, or transformers cannot load it.

        """
        return load_processor(self.reference) if corpus.pictured else self.tokenizer


def find(name: str, *, trust_remote_code: bool = False) -> Reference:
    """Find a checkpoint and check all that can be checked without loading its weights.

    Args:
        name: `demo`, `demo-blowup`, a folder, a `.gguf` file, or a hub id `org/name` or `org/name@revision`.
        trust_remote_code: whether Python code that comes with the checkpoint may run.

    Raises:
        CheckpointError: where nothing is found under the name, or what is found is damaged, pickled or needs its own code.

    """
    return _find(name, trust_remote_code, adapters_too=True)


def _find(name: str, trust_remote_code: bool, *, adapters_too: bool) -> Reference:
    path = Path(os.path.expanduser(name))
    if name in DEMO_NAMES:
        return _in_folder(demo_folder(name), name, trust_remote_code)
    if os.path.isfile(path):  # false, as what follows, also where no file can have that name
        if path.suffix == ".gguf":
            return _gguf(path)
        raise CheckpointError(f"{name} is a file, and not a .gguf one: name the folder that holds config.json instead")
    if path.suffix == ".gguf":
        raise CheckpointError(f"no checkpoint {name}: there is no file {path.absolute()}")
    if os.path.isdir(path):
        _check_folder(path, name)
        if adapters.is_adapter(path):
            _check_adapter_alone(name, {file.name for file in path.iterdir()}, adapters_too=adapters_too)
            return _adapter(path, path.resolve().name, trust_remote_code)
        return _in_folder(path, path.resolve().name, trust_remote_code)
    match = hub.HUB_ID.fullmatch(name)
    if match is None:
        raise CheckpointError(
            f"no checkpoint {name}: looked for a folder or .gguf file at {path.absolute()}, and it is no hub id either; "
            f"give a folder, a .gguf file, a hub id such as Qwen/Qwen3-8B, or one of {', '.join(DEMO_NAMES)}"
        )
    return _on_hub(match["repository"], match["revision"], path, trust_remote_code, adapters_too=adapters_too)


def load(
    reference: Reference, *, dtype: str = "auto", device: torch.device | str = "cpu", balanced: bool = False
) -> Checkpoint:
    """Load a checkpoint's model and its tokenizer.

    Args:
        reference: what `find` gave.
        dtype: `auto` (the config's own, bfloat16 for GGUF) or the name of a torch dtype; of quantized weights, that of what
            is not quantized.
        device: where the model goes.
        balanced: whether it goes to all devices instead, in equal parts, as accelerate deals them out.

    Raises:
        CheckpointError: where transformers cannot load it, or weights are missing from it.

    """
    check_device(reference, torch.device(device))
    reference = fetch(reference)
    whole = reference.base or reference
    packed = quantized.method(whole.config) is not None
    spread = balanced or packed
    device_map: Any = None if not spread else BALANCED if balanced else {"": device}
    try:
        with quiet_transformers():
            model, info = _load_model(reference, dtype, torch.device(device), device_map)
    except Exception as cause:  # transformers raises whatever its parts raise
        raise CheckpointError(
            f"checkpoint {whole.id} cannot be loaded: {type(cause).__name__}: {on_one_line(cause)}"
        ) from cause
    # Heads are not measured; of adapters and packed weights they only come along.
    stack = adapters.stack_of(model) if packed or reference.base is not None else ""
    _check_complete(whole.id, info, stack)
    if not spread:
        model = model.to(device)
    if reference.base is not None:
        with quiet_transformers():
            model = adapters.put_on(model, reference.folder, reference.id)
    for part in filter(None, (reference, reference.base)):
        if _stamps(part) != part.stamps:
            raise CheckpointError(f"checkpoint {part.id} was written to while it was loaded: measure it when it is whole")
    return Checkpoint(reference, model.eval(), load_tokenizer(reference), quantized.notes(whole.config, model.config))


def _check_complete(name: str, info: Any, stack: str) -> None:
    """Refuse what transformers filled with random numbers, among the weights whose names begin with `stack`."""
    told = {key: key for key in info["missing_keys"]} | {key[0]: str(key) for key in info["mismatched_keys"]}
    missing = [told[key] for key in sorted(told) if key.startswith(stack)]
    if missing:
        raise CheckpointError(
            f"checkpoint {name} lacks {len(missing)} weights of its architecture (the first: {missing[0]}), which "
            "would be filled with random numbers: save it again with save_pretrained()"
        )


def check_device(reference: Reference, device: torch.device) -> None:
    """Make sure that quantized weights can be loaded here, for a device; all others can.

    Raises:
        CheckpointError: where a library is missing, or the device cannot compute with them.

    """
    whole = reference.base or reference
    if whole.gguf is None:
        with quiet_transformers():
            quantized.check(whole.config, whole.id, device)


def fetch(reference: Reference, remembered: Remembered | None = None) -> Reference:
    """Download the weights where they are on the Hub, and fingerprint them; nothing where that was done already.

    Args:
        reference: what `find` gave.
        remembered: knows the digests of files that it has seen, or computes them; by default they are computed.

    Raises:
        CheckpointError: where they cannot be downloaded, or are damaged.

    """
    if reference.fingerprint is not None:
        return reference
    if reference.base is not None:
        reference = replace(reference, base=fetch(reference.base, remembered))
    if reference.repository is not None:
        reference = _fetch_weights(reference)
    files, stamps = reference.files, _stamps(reference)
    digest = _digest(files) if remembered is None else remembered(files, _digest)
    if reference.base is not None:
        digest = hashlib.sha256(f"{digest} on {reference.base.fingerprint}".encode()).hexdigest()
    return replace(reference, fingerprint=digest, stamps=stamps)


def small_files_digest(reference: Reference) -> str:
    """sha256 over the files that are not weights and yet move figures: the tokenizer's, and Python code."""
    files = (
        []
        if reference.gguf
        else sorted({file for pattern in SMALL_FILES for file in reference.folder.glob(pattern) if file.is_file()})
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
    if reference.base is not None:
        digest.update(small_files_digest(reference.base).encode())
    return digest.hexdigest()


def libraries(reference: Reference) -> list[str]:
    """Name and version of the libraries besides transformers that compute what a loaded checkpoint does."""
    names = quantized.packages((reference.base or reference).config) + (["peft"] if reference.base else [])
    return [f"{name} {version(name)}" for name in names]


def has_tokenizer(reference: Reference) -> bool:
    """Whether the checkpoint came with a tokenizer, or the base model of an adapter did."""
    return _own_tokenizer(reference) or (reference.base is not None and has_tokenizer(reference.base))


def _own_tokenizer(reference: Reference) -> bool:
    return reference.gguf is not None or holds_tokenizer(reference.folder)


def load_tokenizer(reference: Reference) -> Any:
    """The checkpoint's tokenizer, of an adapter without one the base model's; None where there is none.

    Raises:
        CheckpointError: where transformers cannot load it.

    """
    from transformers import AutoTokenizer

    if not has_tokenizer(reference):
        return None
    if reference.base is not None and not _own_tokenizer(reference):
        return load_tokenizer(reference.base)
    own_code = reference.trust_remote_code
    where: dict[str, Any] = {"gguf_file": reference.gguf} if reference.gguf else {"trust_remote_code": own_code}
    if reference.base is not None:  # there is no config.json beside it
        where["config"] = reference.config
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(str(reference.folder), local_files_only=not own_code, **where)
    except Exception as cause:  # transformers raises whatever its parts raise
        if "trust_remote_code" in str(cause):
            reason = "it needs Python code of its own; read that code, and where you trust it add --maxact-trust-remote-code"
        else:
            reason = f"{type(cause).__name__}: {_first_line(cause)}; copy its files again"
        raise CheckpointError(f"the tokenizer of {reference.id} cannot be loaded: {reason}") from cause


def load_processor(reference: Reference) -> Any:
    """The processor of an image-text checkpoint; it holds the tokenizer, too.

    Raises:
        CheckpointError: where the model takes no images, has no processor, or transformers cannot load it.

    """
    from transformers import AutoProcessor
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as IMAGE_TEXT

    kind = reference.config.model_type
    if kind not in IMAGE_TEXT and not hasattr(reference.config, "vision_config") and not reference.trust_remote_code:
        raise CheckpointError(f"checkpoint {reference.id} takes no images ({kind} is a model of text): use a corpus of texts")
    if reference.gguf is not None or not any((reference.folder / file).exists() for file in PROCESSOR_FILES):
        raise CheckpointError(
            f"checkpoint {reference.id} has no processor, which the corpus's images need (looked for "
            f"{' and '.join(PROCESSOR_FILES)} in {reference.folder.absolute()}): add its files, or use a corpus of texts"
        )
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a session may make errors of them
            processor = AutoProcessor.from_pretrained(
                str(reference.folder), local_files_only=True, trust_remote_code=reference.trust_remote_code
            )
    except Exception as cause:  # transformers raises whatever its parts raise
        raise CheckpointError(f"the processor of {reference.id} cannot be loaded: {_processor_failure(cause)}") from cause
    if not is_processor(processor):
        raise CheckpointError(
            f"checkpoint {reference.id} has no processor for images: its files give a {type(processor).__name__}; use a corpus "
            "of texts"
        )
    return processor


def _processor_failure(cause: Exception) -> str:
    lacking = LACKING.search(str(cause))
    if lacking is not None:
        library = "torchvision" if lacking["library"].lower() == "torchvision" else "pillow"
        return f"it needs the library {library}: `pip install {library}`"
    if "trust_remote_code" in str(cause):
        return "it needs Python code of its own; read that code, and where you trust it add --maxact-trust-remote-code"
    return f"{type(cause).__name__}: {_first_line(cause)}; copy its files again"


def resolve_device(name: str) -> torch.device:
    """The device an option names; `auto` is CUDA, else MPS, else the CPU; of `balanced` the first one.

    Raises:
        SettingsError: for a device that this machine or PyTorch build does not have, or `balanced` without accelerate.

    """
    if name == BALANCED and find_spec("accelerate") is None:
        raise SettingsError("--maxact-device=balanced needs the library accelerate: `pip install accelerate`, or name a device")
    if name in ("auto", BALANCED):
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as cause:
        reason = _first_line(cause)[:120]
        raise SettingsError(f"--maxact-device={name} cannot be used here ({reason}): try auto or cpu") from None
    return device


def _check_folder(folder: Path, name: str) -> None:
    try:
        check_folder(folder, SMALL_FILES)
    except OSError as cause:
        raise CheckpointError(f"{cause.filename} of checkpoint {name} cannot be read: {cause.strerror}") from None


def _in_folder(folder: Path, name: str, trust_remote_code: bool) -> Reference:
    config = _config(folder, name, trust_remote_code)
    weights = _weights(folder, name)
    for file in weights:
        _check_safetensors(folder / file, name)
    return Reference(name, folder, config, weights, trust_remote_code=trust_remote_code)


def _check_adapter_alone(name: str, files: Iterable[str], *, adapters_too: bool) -> None:
    if not adapters_too:
        raise CheckpointError(f"{name} is an adapter itself: merge it into its own base model with merge_and_unload()")
    whole = sorted({"config.json", SINGLE, INDEX} & set(files))
    if len(whole) > 1:  # transformers would load the one or both, by what is installed
        raise CheckpointError(f"checkpoint {name} holds a whole model ({whole[-1]}) and an adapter: leave one of them there")


def _adapter(
    folder: Path, name: str, trust_remote_code: bool, repository: str | None = None, revision: str | None = None
) -> Reference:
    """An adapter in a folder; its weights are still to be downloaded where it comes from a repository."""
    if repository is None:
        _check_adapter_weights(folder, name)
    wanted = adapters.base_of(adapters.read(folder, name), folder, name)
    try:
        base = _find(wanted, trust_remote_code, adapters_too=False)
    except CheckpointError as cause:
        raise CheckpointError(f"the base model that adapter {name} names cannot be used: {cause}") from None
    config: Any = base.config
    weights: tuple[str, ...] = ()
    if repository is None:
        _check_safetensors(folder / adapters.WEIGHTS, name)
        weights, rows = (adapters.WEIGHTS,), adapters.vocabulary(folder)
        if rows is not None:
            config = copy.deepcopy(config)
            config.get_text_config(decoder=True).vocab_size = rows
    return Reference(name, folder, config, weights, None, repository, revision, trust_remote_code, base=base)


def _check_adapter_weights(folder: Path, name: str) -> None:
    if (folder / adapters.WEIGHTS).is_file():
        return
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(f"adapter_model{pattern[1:]}"))
    if pickled:
        raise CheckpointError(_pickled_adapter(name, pickled[0]))
    raise CheckpointError(f"adapter {name} holds no weights (looked for {adapters.WEIGHTS} in {folder.absolute()})")


def _pickled_adapter(name: str, file: str) -> str:
    return (
        f"adapter {name} has only pickled weights ({file}), and pickled ones can run code when they are read: convert it where "
        "you trust it, by PeftModel.from_pretrained(...).save_pretrained(...) of peft"
    )


def _gguf(path: Path) -> Reference:
    from transformers import AutoConfig

    for library in ("gguf", "accelerate"):
        try:
            __import__(library)
        except ImportError:
            raise CheckpointError(f"reading {path.name} needs the library {library}: `pip install gguf accelerate`") from None
    try:
        _check_numbers(read_numbers(path))
        with quiet_transformers():
            config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
        _check_sizes(config)
    except Exception as cause:  # the parser raises whatever a damaged file makes it raise
        reason = f"{type(cause).__name__}: {on_one_line(cause)}"
        raise CheckpointError(f"{path} is no GGUF file that transformers can read: {reason}") from None
    return Reference(path.stem, path.parent, config, (path.name,), gguf=path.name)


def _on_hub(repository: str, revision: str | None, path: Path, trust_remote_code: bool, *, adapters_too: bool) -> Reference:
    at = f"{repository}@{revision}" if revision else repository
    try:
        snapshot = hub.snapshot(repository, revision, SMALL_FILES)
        if snapshot.failure and not snapshot.files.issuperset(_wanted(snapshot.folder, at)):
            raise snapshot.failure  # what the cache has of it is no use without the weights
    except hub.HubError as cause:
        raise CheckpointError(f"no checkpoint {at}: there is no folder {path.absolute()}, and {cause}") from None
    if adapters.CONFIG in snapshot.files:
        _check_adapter_alone(at, snapshot.files, adapters_too=adapters_too)
        if adapters.WEIGHTS not in snapshot.files:
            pickled = sorted(file for file in snapshot.files if file.startswith("adapter_model"))
            raise CheckpointError(_pickled_adapter(at, pickled[0] if pickled else "none at all"))
        return _adapter(snapshot.folder, repository, trust_remote_code, repository, snapshot.commit)
    if "config.json" not in snapshot.files:
        packed = sorted(file for file in snapshot.files if file.endswith(".gguf"))
        instead = f"fetch `hf download {repository} {packed[0]} --local-dir .` and name the file" if packed else "name another"
        raise CheckpointError(f"checkpoint {at} holds no config.json on the Hub: {instead}")
    if not snapshot.files & {INDEX, SINGLE}:
        raise CheckpointError(_pickled(repository, "no safetensors weights on the Hub", revision))
    config = _config(snapshot.folder, at, trust_remote_code)
    return Reference(repository, snapshot.folder, config, (), None, repository, snapshot.commit, trust_remote_code)


def _wanted(folder: Path, name: str) -> tuple[str, ...]:
    if (folder / adapters.CONFIG).exists():
        return (adapters.WEIGHTS,)
    return _shards(folder / INDEX, name) if (folder / INDEX).exists() else (SINGLE,)


def _fetch_weights(reference: Reference) -> Reference:
    assert reference.repository is not None
    assert reference.revision is not None
    folder, wanted = reference.folder, _wanted(reference.folder, reference.id)
    if not all((folder / file).exists() for file in wanted):
        try:
            folder = hub.fetch(reference.repository, reference.revision, wanted)
        except hub.HubError as cause:
            raise CheckpointError(f"the weights of {reference.id} could not be downloaded: {cause}") from None
    for file in wanted:
        _check_safetensors(folder / file, reference.id)
    return replace(reference, folder=folder, weights=wanted)


def _config(folder: Path, name: str, trust_remote_code: bool) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    file = folder / "config.json"
    if not file.is_file():
        what = "is empty" if not any(folder.iterdir()) else "holds no config.json"
        raise CheckpointError(
            f"checkpoint {name} {what} (looked in {folder.absolute()}): name the folder that save_pretrained() wrote"
        )
    try:
        raw = parse_json(read(file, MAX_SMALL_FILE).decode())
        _check_numbers(raw)
        known = raw.get("model_type") in CONFIG_MAPPING
        own_code = [] if known else sorted({str(code) for code in raw.get("auto_map", {}).values()})
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else on_one_line(cause)
        raise CheckpointError(f"{file} is not a model's config: {reason}") from None
    if own_code and not trust_remote_code:
        raise CheckpointError(
            f"checkpoint {name} needs Python code of its own ({shortened(', '.join(own_code), 400)}): read that code, and "
            "where you trust it add --maxact-trust-remote-code"
        )
    kernels = sorted({name for name in _implementations(raw) if "/" in name})
    if kernels and not trust_remote_code:
        raise CheckpointError(
            f"checkpoint {name} asks for code from the Hub ({', '.join(kernels)}): remove it from {file}, or where you trust "
            "it add --maxact-trust-remote-code"
        )
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
            _check_sizes(config)
            return config
    except Exception as cause:  # transformers raises whatever its parts raise
        reason = _first_line(cause)
        raise CheckpointError(f"{file} cannot be used: {reason}; a newer transformers may know this architecture") from None


def _implementations(config: Any) -> Iterator[str]:
    """How attention and experts are to be computed, as a config says, or one inside it.

    What transformers does not know by such a name it takes for a repository of the Hub, the code of which it runs.
    """
    left = [(False, config)]
    while left:
        named, value = left.pop()
        if isinstance(value, dict):
            left += [(named or "_implementation" in key, part) for key, part in value.items()]
        elif isinstance(value, list):
            left += [(named, part) for part in value]
        elif named and isinstance(value, str):
            yield value


def _check_numbers(raw: Any) -> None:
    """Refuse a config, as it was read, by which more would be made than there is room for."""
    left: list[tuple[str, Any]] = [("", raw)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += ((key, element) for element in value)
        elif isinstance(value, int):
            most = MAX_COUNTED if COUNTED.search(key) else MAX_NUMBER
            if abs(value) > most:
                raise ValueError(f"{shortened(key)} is {shortened(str(value))}, and at most {most:,} is taken for a model's")


def _check_sizes(config: Any) -> None:
    """Refuse a config whose sizes are none, among those that are used before the model itself refuses them."""
    text = config.get_text_config(decoder=True)
    for name in ("vocab_size", "num_hidden_layers", "hidden_size", "max_position_embeddings"):
        value = getattr(text, name, None)
        unlimited = name == "max_position_embeddings" and value == -1
        if value is not None and not unlimited and not (type(value) is int and 0 < value <= MAX_SIZE):
            raise ValueError(f"{name} is {shortened(repr(value))}, which is no size from 1 to {MAX_SIZE:,}")


def _weights(folder: Path, name: str) -> tuple[str, ...]:
    if (folder / INDEX).is_file():
        return _shards(folder / INDEX, name)
    if (folder / SINGLE).is_file():
        return (SINGLE,)
    pickled = sorted(
        file.name for pattern in PICKLED for file in folder.glob(pattern) if not file.name.startswith(TRAINERS_OWN)
    )
    if pickled:
        raise CheckpointError(_pickled(str(folder), f"only pickled weights ({pickled[0]})"))
    raise CheckpointError(f"checkpoint {name} holds no weights (looked for {SINGLE} and {INDEX} in {folder.absolute()})")


def _pickled(source: str, what: str, revision: str | None = None) -> str:
    target = f"{Path(source).name}-safetensors"
    pinned = f", revision='{revision}'" if revision else ""
    return (
        f"checkpoint {source} has {what}, and pickled ones can run code when they are read: convert it where you trust it, "
        f"with `python -c \"from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; s, t = '{source}', "
        f"'{target}'; M.from_pretrained(s, dtype='auto'{pinned}).save_pretrained(t); "
        f'T.from_pretrained(s{pinned}).save_pretrained(t)"`'
    )


def _shards(index: Path, name: str) -> tuple[str, ...]:
    try:
        files = sorted(set(parse_json(read(index, MAX_SMALL_FILE).decode())["weight_map"].values()))
        outside = [file for file in files if Path(file).name != file or file == ".."]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else f"{type(cause).__name__}: {on_one_line(cause)}"
        raise CheckpointError(f"the weight index {index} is malformed: {reason}") from None
    if outside or not files:
        told = shortened(outside[0], 200) if outside else "no files"
        raise CheckpointError(f"the weight index of {name} names {told}, which is no file beside it")
    if len(files) > MAX_SHARDS:
        raise CheckpointError(f"the weight index of {name} names {len(files):,} files, and at most {MAX_SHARDS:,} are read")
    return tuple(files)


def _check_safetensors(file: Path, name: str) -> None:
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(file):
        raise CheckpointError(
            f"checkpoint {name} lacks {shortened(file.name, 200)}, which its weight index names: copy or download it again"
        )
    try:
        with safe_open(file, framework="pt"):  # compares the header with the file's size
            pass
    except (SafetensorError, OSError) as cause:
        raise CheckpointError(f"{file} is damaged or cut short ({cause}): copy or download it again") from None


def _load_model(reference: Reference, dtype: str, device: torch.device, device_map: Any) -> tuple[Any, Any]:
    """The model and what transformers tells of its weights; of an adapter those of its base."""
    import transformers

    whole = reference.base or reference
    # Weights of another shape are told to us, and refused with those that are missing.
    options: dict[str, Any] = {"dtype": "auto" if dtype == "auto" else getattr(torch, dtype), "ignore_mismatched_sizes": True}
    if whole.gguf is not None:
        options |= {"gguf_file": whole.gguf}
        if dtype == "auto":
            options["dtype"] = torch.bfloat16
        if hasattr(transformers, "GgufConfig"):  # newer releases may else keep the weights packed
            options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    else:
        options |= {"use_safetensors": True, "trust_remote_code": whole.trust_remote_code}
        options |= quantized.options(whole.config, device)
    if device_map is not None:
        options["device_map"] = device_map
    return _model_class(reference).from_pretrained(  # type: ignore[no-any-return]
        str(whole.folder),
        config=whole.config,
        local_files_only=not whole.trust_remote_code,  # its code may lie in another repository
        output_loading_info=True,
        **options,
    )


def _model_class(reference: Reference) -> Any:
    """The class that loads a checkpoint: the model without a head where names of modules do not matter."""
    import transformers

    whole = reference.base or reference
    config: Any = whole.config
    if reference.base is not None:
        name = adapters.class_for(reference.folder, config)
    elif quantized.method(config) is not None:  # which modules are quantized is told by the names they were saved under
        name = (getattr(config, "architectures", None) or ["AutoModel"])[0]
    else:
        name = "AutoModel"
    found: Any = getattr(transformers, name, None)
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    if is_model and found.config_class is type(config):
        return found
    own = getattr(config, "auto_map", None) or {} if whole.trust_remote_code else {}
    if not name.startswith("AutoModel"):
        name = "AutoModelForCausalLM"
    if own and name not in own:
        name = next((kind for kind in own if kind.startswith("AutoModel") and hasattr(transformers, kind)), name)
    return getattr(transformers, name)


def _stamps(reference: Reference) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((stat.st_size, stat.st_mtime_ns) for stat in (file.stat() for file in reference.files))
    except OSError as cause:
        reason = f"{cause.filename}: {cause.strerror}"
        raise CheckpointError(f"checkpoint {reference.id} is not what it was ({reason}): has it been deleted?") from None


def _digest(files: Sequence[Path]) -> str:
    """sha256 over files and their sizes."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
