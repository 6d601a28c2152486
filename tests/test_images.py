"""Images reach a model as its own processor makes them, no token is mistaken for another, and what cannot be is one line."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="images need Pillow: pip install pillow")

from PIL import Image
from transformers import PreTrainedTokenizerFast

from pytest_maxact.batching import Batch, Texts, Work, from_corpus
from pytest_maxact.checkpoint import find, load, load_processor
from pytest_maxact.corpus import Corpus, Sample, load_corpus, tokenize
from pytest_maxact.demo.pictures import DRAWN
from pytest_maxact.errors import CheckpointError, CorpusError
from pytest_maxact.processors import ImageTextEncoder
from pytest_maxact.prompts import SpecialTokens, chat_ids, image_placeholder
from pytest_maxact.reducers.peak import PeakAt
from pytest_maxact.resources import data_folder
from tests.conftest import tiny_model
from tests.image_text import FAMILIES, ImageText, gemma3, llava, qwen2_vl

CPU = torch.device("cpu")
ROWS: list[dict[str, Any]] = [
    {"id": "one", "text": "A red box.", "images": ["pixels/wide.png"]},
    {"id": "plain", "text": "No picture here, only words."},
    {"id": "two", "text": "Between <image> and <image>, words.", "images": ["pixels/wide.png", "pixels/high.jpg"]},
    {"id": "ids", "input_ids": [5, 6, 7]},
]


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    """A corpus file, and beside it two images."""
    (folder / "pixels").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (90, 40), (200, 30, 30)).save(folder / "pixels" / "wide.png")
    Image.fromarray(np.arange(70 * 44 * 3, dtype=np.uint8).reshape(70, 44, 3)).save(folder / "pixels" / "high.jpg")
    file = folder / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return load_corpus(str(written(tmp_path, *ROWS)))


def work_of(corpus: Corpus, kind: ImageText, policy: SpecialTokens = "none", max_length: int | None = None) -> Work:
    return from_corpus(corpus, kind.processor, kind.config, max_length, policy, 4096, torch.float32)


def with_images(work: Work) -> dict[str, Batch]:
    """The batches with images by the name of their only sample."""
    return {work.names[int(batch.samples[0])]: batch for batch in work.batches if batch.extra}


# --- corpora


def test_images_are_found_beside_the_file_and_stand_where_the_text_says(corpus: Corpus) -> None:
    one, plain, two, _ = corpus.samples
    assert [sample.id for sample in corpus.pictured] == ["one", "two"]
    assert [image.path.name for image in two.images] == ["wide.png", "high.jpg"]
    assert [image.size for image in two.images] == [(90, 40), (44, 70)]
    assert one.parts == [one.images[0], "A red box."]
    assert two.parts == ["Between ", two.images[0], " and ", two.images[1], ", words."]
    assert plain.parts == ["No picture here, only words."]


def test_the_digest_is_over_the_bytes_of_images_and_that_of_texts_is_what_it_was(tmp_path: Path) -> None:
    file = written(tmp_path, *ROWS)
    before = load_corpus(str(file))
    red = hashlib.sha256((tmp_path / "pixels" / "wide.png").read_bytes()).hexdigest()
    one = Corpus("one", before.samples[:1])
    by_hand = f'["one", "uncategorized", "A red box.", null, ["{red}"]]\n'
    assert one.digest == hashlib.sha256(by_hand.encode()).hexdigest()
    shutil.move(file.parent, tmp_path.parent / "moved")
    assert load_corpus(str(tmp_path.parent / "moved" / file.name)).digest == before.digest
    Image.new("RGB", (90, 40), (200, 30, 31)).save(tmp_path.parent / "moved" / "pixels" / "wide.png")
    assert load_corpus(str(tmp_path.parent / "moved" / file.name)).digest != before.digest
    text = Corpus("text", before.samples[1:2])
    assert text.digest == hashlib.sha256(b'["plain", "uncategorized", "No picture here, only words.", null]\n').hexdigest()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"images": ["pixels/none.png"]}, ": image pixels/none.png cannot be read (looked at FOLDER/pixels/none.png): No such"),
        ({"images": ["pixels"]}, ": image pixels cannot be read (looked at FOLDER/pixels): Is a directory"),
        ({"images": ["pixels/cut.png"]}, ": image pixels/cut.png (FOLDER/pixels/cut.png) is no whole PNG or JPEG file ("),
        (
            {"images": ["pixels/cut.jpg"]},
            ": image pixels/cut.jpg (FOLDER/pixels/cut.jpg) is no whole PNG or JPEG file (image fi",
        ),
        ({"images": ["mine.jsonl"]}, ": image mine.jsonl (FOLDER/mine.jsonl) is no whole PNG or JPEG file (cannot identify"),
        ({"images": ["pixels/wide.gif"]}, ": image pixels/wide.gif (FOLDER/pixels/wide.gif) is no whole PNG or JPEG file ("),
        ({"images": ["/etc/a.png"]}, ": \"images\" holds '/etc/a.png', and must hold paths of files below FOLDER, such as"),
        ({"images": ["../a.png"]}, ": \"images\" holds '../a.png', and must hold paths of files below"),
        ({"images": ["pixels/../../a.png"]}, ": \"images\" holds 'pixels/../../a.png', and must"),
        ({"images": ["https://example.org/a.png"]}, ": \"images\" holds 'https://example.org/a.png', and must"),
        ({"images": ["C:/a.png"]}, ": \"images\" holds 'C:/a.png', and must"),
        ({"images": [{"bytes": ""}]}, ": \"images\" holds {'bytes': ''}, and must"),
        ({"images": [""]}, ": \"images\" holds '', and must"),
        ({"images": "pixels/wide.png"}, ': "images" must be a list of paths of files'),
        (
            {"images": ["pixels/wide.png"], "text": "<image> <image>"},
            ": the text says <image> 2 times and has 1 images: say it once for each of them, or never",
        ),
        ({"images": ["pixels/wide.png"], "text": ""}, ': "text" must be a string that is not empty'),
    ],
)
def test_a_row_with_an_image_that_cannot_be_is_named(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    file = written(tmp_path, ROWS[0], {"text": "t"} | row)
    for name in ("wide.png", "high.jpg"):
        whole = (tmp_path / "pixels" / name).read_bytes()
        (tmp_path / "pixels" / f"cut{Path(name).suffix}").write_bytes(whole[: len(whole) - 40])
    Image.new("RGB", (9, 4)).save(tmp_path / "pixels" / "wide.gif")
    with pytest.raises(CorpusError) as caught:
        load_corpus(str(file))
    assert str(caught.value).startswith(f"corpus file {file}, line 2" + problem.replace("FOLDER", str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_ids_have_no_images_and_an_empty_list_is_none(tmp_path: Path) -> None:
    file = written(tmp_path, {"text": "a", "images": []}, {"input_ids": [1], "images": None})
    assert load_corpus(str(file)).pictured == []
    file = written(tmp_path, {"input_ids": [1], "images": ["pixels/wide.png"]})
    with pytest.raises(CorpusError, match='line 1: "images" go with "text", not with "input_ids"'):
        load_corpus(str(file))


def test_without_pillow_only_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, *ROWS)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert load_corpus("core").pictured == []
    with pytest.raises(CorpusError, match=r"line 1 has images, which need the library Pillow: `pip install pillow`$"):
        load_corpus(str(file))


def test_an_image_is_read_upright_and_opaque_and_only_while_it_is_what_it_was(tmp_path: Path) -> None:
    file = written(tmp_path, ROWS[0])
    turned = Image.new("RGBA", (90, 40), (10, 20, 30, 128))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned.save(tmp_path / "pixels" / "wide.png", exif=exif)
    (image,) = load_corpus(str(file)).samples[0].images
    read = image.read()
    assert (read.mode, read.size, read.getpixel((0, 0))) == ("RGB", (40, 90), (10, 20, 30))
    Image.new("RGB", (90, 40)).save(tmp_path / "pixels" / "wide.png")
    with pytest.raises(CorpusError, match=r"wide\.png was changed after its corpus was loaded"):
        image.read()
    image.path.unlink()
    with pytest.raises(CorpusError, match=r"wide.png cannot be read \(looked at .*wide.png\): No such file"):
        image.read()


# --- the bundled corpus


def test_the_bundled_images_are_varied_small_and_join_core() -> None:
    images = load_corpus("images")
    assert len(images.samples) == len(images.pictured) == 24
    assert len(images.categories) == 7
    assert min(images.categories.values()) >= 3
    assert {len(sample.images) for sample in images.samples} == {1, 2, 3}
    assert len({image.digest for sample in images.samples for image in sample.images}) == len(DRAWN)
    assert any("<image>" in (sample.text or "") for sample in images.samples)
    assert sum(file.stat().st_size for file in (data_folder("corpora") / "images").iterdir()) < 100_000
    joined, core = load_corpus("core+images"), load_corpus("core")
    assert [replace(sample, corpus=None) for sample in joined.samples] == [*core.samples, *images.samples]
    assert [sample.corpus for sample in joined.samples] == ["core"] * len(core.samples) + ["images"] * len(images.samples)
    assert not core.categories.keys() & images.categories.keys()


def test_every_bundled_image_is_what_its_script_draws() -> None:
    stored = {file.stem: file for file in (data_folder("corpora") / "images").iterdir()}
    assert stored.keys() == {draw.__name__ for draw in DRAWN}
    for draw in DRAWN:
        assert np.array_equal(np.asarray(Image.open(stored[draw.__name__]).convert("RGB")), draw().pixels), draw.__name__


# --- what a processor makes


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", ["none", "tokenizer"])
def test_a_whole_model_takes_what_its_processor_makes(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, family: str, policy: SpecialTokens
) -> None:
    kind = FAMILIES[family](tokenizer)
    model, work = kind.model(), work_of(corpus, kind, policy)
    pictured = with_images(work)
    assert pictured.keys() == {"one", "two"}
    seen: dict[str, torch.Tensor] = {}
    for name, batch in pictured.items():
        assert batch.ids.shape == batch.mask.shape
        assert batch.image is not None
        assert batch.image.shape == batch.ids.shape == (1, batch.tokens)
        assert batch.image.dtype == torch.bool
        assert bool(batch.mask.all())
        image_id = getattr(kind.config, "image_token_id", None) or kind.config.image_token_index
        assert torch.equal(batch.image, batch.ids == image_id)
        inputs = batch.inputs(CPU)
        assert inputs.keys() == {"input_ids", "attention_mask", *batch.extra}
        assert "pixel_values" in batch.extra
        with torch.no_grad():
            states = model(**inputs, use_cache=False).last_hidden_state
            inputs["pixel_values"] = 1 - inputs["pixel_values"]
            other = model(**inputs, use_cache=False).last_hidden_state
        assert states.shape == (1, batch.tokens, 32)
        assert bool(states.isfinite().all())
        assert not torch.equal(states, other)  # the pixels did get in
        seen[name] = batch.ids
    own = kind.processor.tokenizer
    text = own.decode(seen["two"][0].tolist(), skip_special_tokens=True)
    assert text.index("Between") < text.index(" and ") < text.index("words.")
    runs = with_images(work)["two"].image
    assert runs is not None
    assert int((runs[0, 1:] & ~runs[0, :-1]).sum()) >= 2  # the two images stand apart


@pytest.mark.parametrize(("family", "images"), [("llava", 4), ("gemma3", 4), ("qwen2_vl", 3), ("mllama", 1)])
def test_an_image_takes_the_tokens_that_its_model_says(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, family: str, images: int
) -> None:
    kind = FAMILIES[family](tokenizer)
    work = work_of(corpus, kind)
    batch = with_images(work)["one"]
    assert batch.image is not None
    assert int(batch.image.sum()) == images
    tokens = sum(int(batch.mask.sum()) for batch in work.batches)
    assert work.facts.tokens == tokens > images
    assert work.facts.samples == len(work.names) == 4


def test_texts_beside_images_are_batched_as_they_are_alone(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> None:
    kind = llava(tokenizer)
    mixed = [batch for batch in work_of(corpus, kind).batches if not batch.extra]
    texts = Corpus("texts", tuple(sample for sample in corpus.samples if not sample.images))
    alone = from_corpus(texts, kind.processor.tokenizer, kind.config, None, "none", 4096).batches
    assert len(mixed) == len(alone) == 1
    assert torch.equal(mixed[0].ids, alone[0].ids)
    assert torch.equal(mixed[0].mask, alone[0].mask)
    assert mixed[0].image is None
    assert mixed[0].samples.tolist() == [1, 3]
    assert mixed[0].inputs(CPU).keys() == {"input_ids", "attention_mask"}


def test_the_longest_sample_with_images_comes_first_and_its_tokens_are_found_again(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    work = work_of(corpus, llava(tokenizer))
    assert [work.names[int(batch.samples[0])] for batch in work.batches] == ["two", "one", "plain"]
    place = Texts(work, llava(tokenizer).processor).location(PeakAt(signed=1.0, feature=0, sample=0, position=5))
    assert (place.sample, place.position) == ("one", 5)
    assert place.token_id == int(work.batches[1].ids[0, 5])
    assert str(place.before).endswith("<image>\n")


def test_pixels_come_in_the_models_dtype_and_are_not_kept(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> None:
    kind = gemma3(tokenizer)
    work = from_corpus(corpus, kind.processor, kind.config, None, "none", 4096, torch.bfloat16)
    batch = with_images(work)["one"]
    inputs = batch.inputs(CPU)
    assert inputs["pixel_values"].dtype == torch.bfloat16
    assert inputs["token_type_ids"].dtype == torch.int64
    assert batch.extra["pixel_values"] is not batch.extra["pixel_values"]
    assert torch.equal(batch.extra["pixel_values"], inputs["pixel_values"])
    with torch.no_grad():
        assert bool(kind.model(torch.bfloat16)(**inputs, use_cache=False).last_hidden_state.isfinite().all())


def test_a_sample_is_cut_after_its_images_and_never_inside(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> None:
    kind = gemma3(tokenizer)
    whole = with_images(work_of(Corpus("c", corpus.samples[:2]), kind))["one"]
    assert whole.image is not None
    last = int(whole.image[0].nonzero().max())
    cut = with_images(work_of(Corpus("c", corpus.samples[:2]), kind, max_length=last + 2))["one"]
    assert torch.equal(cut.ids, whole.ids[:, : last + 2])
    assert cut.extra["token_type_ids"].shape == cut.ids.shape
    assert cut.extra["pixel_values"].shape == whole.extra["pixel_values"].shape
    with torch.no_grad():
        assert kind.model()(**cut.inputs(CPU), use_cache=False).last_hidden_state.shape[1] == last + 2
    with pytest.raises(CorpusError, match=rf"sample one takes {last + 1} tokens up to .* more than max_length={last}, and"):
        work_of(Corpus("c", corpus.samples[:2]), kind, max_length=last)


def test_a_file_that_changes_between_tokens_and_forward_is_told(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> None:
    batch = with_images(work_of(corpus, llava(tokenizer)))["one"]
    corpus.samples[0].images[0].path.write_bytes(b"")
    with pytest.raises(CorpusError, match="was changed after its corpus was loaded"):
        batch.inputs(CPU)


# --- templates


@pytest.mark.parametrize(
    ("build", "placeholder", "prompt"),
    [
        (llava, "<image>\n", "USER: " + 4 * "<image>" + "\nA red box. <eos>"),
        (
            qwen2_vl,
            "<|vision_start|><|image_pad|><|vision_end|>",
            "<eos>user\n<|vision_start|>" + 3 * "<|image_pad|>" + "<|vision_end|>A red box.<eos>\n",
        ),
    ],
)
def test_what_stands_for_an_image_is_what_the_chat_template_puts_there(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, build: Callable[..., ImageText], placeholder: str, prompt: str
) -> None:
    kind = build(tokenizer)
    assert image_placeholder(kind.processor) == placeholder
    decode = kind.processor.tokenizer.decode
    assert decode(with_images(work_of(corpus, kind, "chat"))["one"].ids[0].tolist()) == prompt
    plain = decode(with_images(work_of(corpus, kind))["one"].ids[0].tolist())
    assert plain in prompt
    assert plain.endswith("A red box.")


def test_without_a_template_an_images_own_token_stands_for_it(tokenizer: PreTrainedTokenizerFast) -> None:
    processor = qwen2_vl(tokenizer).processor
    processor.chat_template = None
    assert image_placeholder(processor) == "<|image_pad|>"
    processor.chat_template = "{{ raise_exception('no') }}"
    assert image_placeholder(processor) == "<|image_pad|>"


def test_a_text_alone_gets_through_a_template_of_parts(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> None:
    processor = llava(tokenizer).processor
    ids = chat_ids(processor, "Only words.")
    assert processor.tokenizer.decode(ids) == "USER: Only words. <eos>"
    processor.tokenizer.chat_template = processor.chat_template  # as it is where both are read from a checkpoint
    assert chat_ids(processor.tokenizer, "Only words.") == ids
    (_, plain, _, _) = corpus.samples
    assert "No picture" in processor.tokenizer.decode(tokenize(Corpus("c", (plain,)), processor, "chat", 99)[0].ids)


# --- what cannot be


def test_a_tokenizer_alone_is_not_enough_and_a_processor_serves_texts_too(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    kind = llava(tokenizer)
    with pytest.raises(
        CorpusError, match=r"corpus mine has images, .* without a processor: pass its processor \(transformers'"
    ):
        from_corpus(corpus, kind.processor.tokenizer, kind.config, None, "none", 4096)
    text = Corpus("c", (Sample("a", "x", text="words"),))
    assert tokenize(text, kind.processor, "none", 9) == tokenize(text, kind.processor.tokenizer, "none", 9)


def test_a_processor_and_a_model_of_different_tokens_do_not_fit(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> None:
    kind = llava(tokenizer)
    kind.config.image_token_id = 3
    with pytest.raises(CorpusError, match=r"no token of sample one stands for an image \(looked for id 3 among"):
        work_of(corpus, kind)
    plain = tiny_model().config
    kind.processor.image_token_id = None
    with pytest.raises(CorpusError, match="images cannot be run through llama: neither its config nor its LlavaProcessor"):
        ImageTextEncoder.of(kind.processor, plain)


def test_what_a_processor_raises_names_the_sample(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    kind = qwen2_vl(tokenizer)
    file = written(tmp_path, {"id": "strip", "text": "t", "images": ["pixels/wide.png"]})
    Image.new("RGB", (600, 2)).save(tmp_path / "pixels" / "wide.png")
    with pytest.raises(CorpusError, match=r"ImagesOnly cannot take sample strip \(ValueError: absolute aspect ratio"):
        work_of(load_corpus(str(file)), kind)


# --- checkpoints


@pytest.fixture(scope="module")
def saved(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llava(tokenizer).save(tmp_path_factory.mktemp("image-text") / "tiny-llava")


def test_a_checkpoints_processor_makes_what_the_one_in_memory_makes(
    saved: Path, corpus: Corpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    checkpoint = load(find(str(saved)))
    assert type(checkpoint.preprocessor(Corpus("c", corpus.samples[1:2]))) is type(checkpoint.tokenizer)
    processor = checkpoint.preprocessor(corpus)
    work = from_corpus(corpus, processor, checkpoint.model.config, None, "none", 4096, torch.float32)
    expected = with_images(work_of(corpus, llava(tokenizer)))
    for name, batch in with_images(work).items():
        assert torch.equal(batch.ids, expected[name].ids)
        assert torch.equal(batch.extra["pixel_values"], expected[name].extra["pixel_values"])


def session(pytester: pytest.Pytester, model: Path, corpus: Path | str, *args: str) -> tuple[int, str]:
    """Exit status and all lines of a run without baselines."""
    options = [f"--maxact-model={model}", f"--maxact-corpus={corpus}", "--maxact-baseline=none", "-p", "no:cacheprovider"]
    result = pytester.runpytest_inprocess("--collect-only", *options, *args)
    return int(result.ret), "\n".join([*result.outlines, *result.errlines])


def broken_copy(saved: Path, folder: Path, break_it: str) -> Path:
    copy = Path(shutil.copytree(saved, folder / "copy"))
    file = copy / "processor_config.json"
    if break_it == "gone":
        file.unlink()
    elif break_it == "torn":
        file.write_text("{")
    elif break_it == "video":
        config = json.loads(file.read_text()) | {"processor_class": "LlavaOnevisionProcessor"}
        config |= {"video_processor": {"video_processor_type": "LlavaOnevisionVideoProcessor"}}
        file.write_text(json.dumps(config))
    elif break_it == "lanczos":
        file.write_text(
            json.dumps({"processor_class": "LlavaProcessor", "image_processor": {"image_processor_type": "Sam2ImageProcessor"}})
        )
    elif break_it == "tokenizer":
        file.write_text(json.dumps({"processor_class": "PreTrainedTokenizerFast"}))
    return copy


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("gone", "checkpoint copy has no processor, which the corpus's images need (looked for processor_config.json and"),
        ("torn", "the processor of copy cannot be loaded: "),
        ("video", "the processor of copy cannot be loaded: it needs the library torchvision: `pip install torchvision`"),
        ("lanczos", "the processor of copy cannot be loaded: it needs the library torchvision: `pip install torchvision`"),
    ],
)
def test_a_processor_that_cannot_be_had_is_one_line_before_the_run(
    pytester: pytest.Pytester, saved: Path, tmp_path: Path, broken: str, problem: str
) -> None:
    copy = broken_copy(saved, tmp_path, broken)
    corpus = written(tmp_path, *ROWS)
    status, said = session(pytester, copy, corpus)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {problem}" in said
    assert "Traceback" not in said
    status, said = session(pytester, copy, "smoke")  # texts need none of it
    assert status == pytest.ExitCode.OK, said


def test_what_images_need_is_found_out_before_the_run(
    pytester: pytest.Pytester, saved: Path, checkpoint: Path, tmp_path: Path
) -> None:
    corpus = written(tmp_path, *ROWS)
    assert session(pytester, saved, corpus)[0] == pytest.ExitCode.OK
    assert session(pytester, saved, "core+images")[0] == pytest.ExitCode.OK
    for model, args, problem in [
        (checkpoint, (), "ERROR: checkpoint tiny takes no images (llama is a model of text): use a corpus of texts"),
        (saved, ("--maxact-max-length=8",), "ERROR: sample two takes 17 tokens up to the last of its images, more than max_l"),
        (saved, ("--maxact-special-tokens=chat",), None),
    ]:
        status, said = session(pytester, model, corpus, *args)
        assert status == (pytest.ExitCode.OK if problem is None else pytest.ExitCode.USAGE_ERROR), said
        assert problem is None or problem in said
    (tmp_path / "pixels" / "high.jpg").unlink()
    status, said = session(pytester, saved, corpus)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: corpus file {corpus}, line 3: image pixels/high.jpg cannot be read" in said


def test_files_that_give_only_a_tokenizer_are_no_processor(saved: Path, tmp_path: Path) -> None:
    copy = broken_copy(saved, tmp_path, "tokenizer")
    with pytest.raises(CheckpointError, match="checkpoint copy has no processor for images: its files give a "):
        load_processor(find(str(copy)))
