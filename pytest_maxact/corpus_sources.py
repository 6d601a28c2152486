"""Where samples come from: JSON Lines, text and parquet files, data sets of the Hub. All give rows, still to be checked."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from pytest_maxact import hub
from pytest_maxact.errors import CorpusError, first_line, on_one_line, shortened
from pytest_maxact.files import opened, parse_json
from pytest_maxact.tokenizer import TokenizerError, load_tokenizer_alone

HUB_PREFIX = "hf:"
HUB_NAME = re.compile(rf"{HUB_PREFIX}{hub.HUB_ID.pattern}(\?(?P<settings>.*))?")
HUB_SETTINGS = ("split", "column", "config", "tokenizer")
# Data sets that hold token ids and do not say of which tokenizer.
TOKENIZERS = {"Clxxxx/eval_diverse_dataset": "meta-llama/Llama-2-7b-hf"}  # that of arXiv 2605.15572
MAX_LINE = 1 << 26  # characters: a sample of 5 million tokens
BATCH = 64  # rows of a parquet file that are unpacked at a time
CONTENT = ("text", "input_ids")
LABELS = ("id", "category")
ARCHIVES = ("zip://", "tar://", "gzip://", "bz2://", "xz://", "zstd://", "lz4://")


class Row(NamedTuple):
    """One row: where it stands, the id of its sample where it has none of its own, and what a JSON Lines line would hold.

    `folder` is where the files lie that the row may name; None where it can name none.
    """

    place: str
    id: str
    data: Any
    folder: Path | None = None


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of a `.txt` file (one a line, empty lines left out), a `.parquet` file or, under any other name, JSON Lines.

    Raises:
        CorpusError: where the file cannot be read.

    """
    if path.suffix == ".txt":
        return _text(path)
    return _parquet(path) if path.suffix == ".parquet" else _json_lines(path)


def hub_rows(name: str) -> Iterator[Row]:
    """The rows of a data set of the Hub.

    Args:
        name: `hf:org/name@revision?split=S&column=C&config=N&tokenizer=T`; what follows the name may be left out or stand in
            any order. Without a split it is `train`, or the only one; without a column `text` or `input_ids`, or the only one
            of strings. A tokenizer, by hub id or folder, says whose token ids the column holds: they become the texts that
            they stand for, without special tokens. Without one, token ids are the model's own, but for `TOKENIZERS`.

    Raises:
        CorpusError: where the name is malformed, the data set, its split or column is not found, or cannot be read, or its
            token ids cannot be turned into texts.

    """
    repository, revision, settings = parse_hub_name(name)
    dataset = _load(name, repository, revision, settings)
    hint = "say which holds the samples, with ?column=NAME"
    columns = _columns(dataset.features.arrow_schema, settings.get("column"), f"corpus {name}", hint)
    table = dataset.select_columns(list(columns))
    rows = _table(table, columns, f"corpus {name}", f"{repository.split('/')[-1]}-{dataset.split}")
    tokenizer = settings.get("tokenizer", TOKENIZERS.get(repository))
    if "input_ids" in columns.values():
        return rows if tokenizer is None else _decoded(rows, tokenizer, f"corpus {name}")
    if "tokenizer" in settings:
        raise CorpusError(f"corpus {name} holds texts, which the model's own tokenizer encodes: leave out tokenizer=")
    return rows


def parse_hub_name(name: str) -> tuple[str, str | None, dict[str, str]]:
    """Repository, revision and settings of a data set's name as `hub_rows` takes it.

    Raises:
        CorpusError: where the name is malformed.

    """
    match = HUB_NAME.fullmatch(name)
    pairs = [part.partition("=")[::2] for part in match["settings"].split("&")] if match and match["settings"] else []
    settings = dict(pairs)
    sound = settings.keys() <= set(HUB_SETTINGS) and "" not in settings.values() and len(settings) == len(pairs)
    if match is None or not sound:
        raise CorpusError(
            f"corpus {name} is not written as hf:org/name@revision?split=train&column=text&config=name&tokenizer=org/name, in "
            "which only hf:org/name is needed"
        )
    return match["repository"], match["revision"], settings


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """The lines of a text file, one at a time."""
    try:
        with io.TextIOWrapper(opened(path), encoding) as stream:
            number = 0
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise CorpusError(
                        f"corpus file {path}, line {number} has more than the {MAX_LINE:,} characters that are read"
                    )
                yield line.removesuffix("\n")
    except OSError as cause:
        raise CorpusError(f"corpus file {path} cannot be read: {cause.strerror}") from None
    except UnicodeDecodeError as cause:
        raise CorpusError(
            f"corpus file {path} cannot be read as UTF-8 text: {cause.reason}, in line {number + 1} or below"
        ) from None


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path, "utf-8"), start=1):
        if not line.strip():
            continue
        place = f"corpus file {path}, line {number}"
        try:
            data = parse_json(line)
            json.dumps(data, ensure_ascii=False).encode()  # an escaped half of a surrogate pair is JSON, and no text
        except (ValueError, RecursionError) as cause:  # not only JSONDecodeError: a number can have too many digits
            raise CorpusError(f"{place} is not JSON: {on_one_line(cause)}") from None
        yield Row(place, f"line-{number}", data, path.parent)


def _text(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path, "utf-8-sig"), start=1):
        if line.strip():
            # The file's name is in the id because a line has none of its own, and files must stay joinable.
            yield Row(f"corpus file {path}, line {number}", f"{path.stem}-{number}", {"text": line})


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise _lacking(f"reading {path.name}") from None
    source = f"corpus file {path}"
    try:
        with parquet.ParquetFile(path) as file:
            hint = 'name the one with the samples "text" or "input_ids", and no other so'
            columns = _columns(file.schema_arrow, None, source, hint)
            batches = file.iter_batches(BATCH, columns=list(columns))
            yield from _table((row for batch in batches for row in batch.to_pylist()), columns, source, path.stem)
    except CorpusError:
        raise
    except Exception as cause:  # whatever a damaged file makes pyarrow raise
        raise CorpusError(f"{source} cannot be read as parquet: {first_line(cause)}") from None


def _table(rows: Iterable[dict[str, Any]], columns: dict[str, str], source: str, name: str) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        texts = [row[column] for column, key in columns.items() if key == "text"]
        if texts and texts[0] is not None and not texts[0].strip():  # as an empty line of a text file
            continue
        # A missing label is no label; missing content is told by the check that all samples go through.
        data = {key: row[column] for column, key in columns.items() if key in CONTENT or row[column] is not None}
        yield Row(f"{source}, row {number}", f"{name}-{number}", data)


def _decoded(rows: Iterable[Row], name: str, source: str) -> Iterator[Row]:
    """The texts that token ids stand for, without special tokens; those that are blank then are left out."""
    another = "tokenizer=org/name, or a folder"
    try:
        tokenizer = load_tokenizer_alone(name)
    except TokenizerError as cause:
        raise CorpusError(
            f"{source} holds token ids of {name}, and this tokenizer cannot be loaded: {cause}; or name a copy of it, with "
            f"{another}"
        ) from None
    known = frozenset(tokenizer.get_vocab().values())
    for row in rows:
        ids = row.data["input_ids"]
        if ids is None:  # told by the check that all samples go through
            yield row
            continue
        if not known.issuperset(ids):  # which the tokenizer would pass over
            stranger = next(id_ for id_ in ids if id_ not in known)
            raise CorpusError(f"{row.place}: {stranger} is no token id of {name}: name the tokenizer it is of, with {another}")
        text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if text.strip():
            labels = {key: row.data[key] for key in LABELS if key in row.data}
            yield row._replace(data={"text": text, **labels})


def _columns(schema: Any, wanted: str | None, source: str, hint: str) -> dict[str, str]:
    """The columns to read, and what each is to a sample."""
    from pyarrow import types

    def kind(column: str) -> str | None:
        type_ = schema.field(column).type
        if types.is_dictionary(type_):  # as pandas writes what it calls categories
            type_ = type_.value_type
        if types.is_string(type_) or types.is_large_string(type_):
            return "text"
        lists = types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)
        return "input_ids" if lists and types.is_integer(type_.value_type) else None

    names = list(dict.fromkeys(schema.names))
    usual = [name for name in CONTENT if name in names]
    strings = [name for name in names if kind(name) == "text" and name not in LABELS]
    chosen = [name for name in names if name == wanted] if wanted else usual or strings
    if len(chosen) != 1:
        lacks = f"no column {wanted}" if wanted else "no single column of texts"
        raise CorpusError(f"{source} has {lacks} among {shortened(', '.join(names), 400)}: {hint}")
    content = kind(chosen[0])
    if content is None:
        raise CorpusError(
            f"column {shortened(chosen[0])} of {source} holds {shortened(str(schema.field(chosen[0]).type))}, neither strings "
            f"nor lists of whole numbers: {hint}"
        )
    labels = {name: name for name in LABELS if name in names and name != chosen[0] and kind(name) == "text"}
    return {chosen[0]: content, **labels}


def _load(name: str, repository: str, revision: str | None, settings: dict[str, str]) -> Any:
    """The one split of a data set that is meant. Its library keeps it in a cache of its own, by commit."""
    try:
        major = int(version("datasets").split(".")[0])
    except PackageNotFoundError:
        major = 0
    if major < 4:  # which would run a repository's own code
        raise _lacking(f"corpus {name}")
    if os.path.exists(repository):
        raise CorpusError(
            f"corpus {name} is hidden by {Path(repository).absolute()}, which the library datasets would read instead: "
            "call pytest from another folder"
        )
    try:
        commit, failure = hub.dataset_commit(repository, revision)
        with _datasets(offline=failure is not None) as datasets:
            builder = datasets.load_dataset_builder(repository, settings.get("config"), revision=commit)
            if builder.hash != commit:  # where the Hub fails, the library takes any commit that it has
                raise failure or CorpusError(f"corpus {name} could not be read from the Hub to the end: try again")
            outside = file_outside(builder.config.data_files or {}, repository)
            if outside is not None:
                raise CorpusError(f"corpus {name} names {outside}, which is no file of its repository: name another data set")
            builder.download_and_prepare()
            splits = list(builder.info.splits)
            split = settings.get("split", "train" if "train" in splits or len(splits) != 1 else splits[0])
            if split.partition("[")[0] not in splits:
                raise CorpusError(f"corpus {name} has no split {split}: add ?split= with one of {', '.join(splits)}")
            return builder.as_dataset(split=split)
    except hub.HubError as cause:
        raise CorpusError(f"no corpus {name}: {cause}") from None
    except CorpusError:
        raise
    except Exception as cause:  # the library raises whatever a repository makes it raise
        reason = " ".join(str(cause).split())[:500]
        raise CorpusError(f"corpus {name} cannot be read: {type(cause).__name__}: {reason}") from None


def file_outside(files: Mapping[str, Sequence[str]], repository: str) -> str | None:
    """The first of a data set's files, by split, that lies elsewhere than in its repository, or in an archive there.

    A data set's card may name any path or address, and not all releases of the library mind.
    """
    for file in (file for of_split in files.values() for file in of_split):
        *inner, last = file.split("::")
        if not last.startswith(f"hf://datasets/{repository}@") or not all(part.startswith(ARCHIVES) for part in inner):
            return file
    return None


def _lacking(reader: str) -> CorpusError:
    return CorpusError(f'{reader} needs the library datasets from version 4: `pip install "datasets>=4"`')


@contextlib.contextmanager
def _datasets(*, offline: bool) -> Iterator[Any]:
    """The library, without progress bars and advice; where the Hub is out of reach, it is not to try for long."""
    import datasets  # takes a second, so not before the Hub has answered

    verbosity, bars = datasets.logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    was_offline = datasets.config.HF_HUB_OFFLINE
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    datasets.config.HF_HUB_OFFLINE = was_offline or offline
    try:
        yield datasets
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
