"""The transformers backend on a tiny Qwen3-VL model with random weights, of the released classes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from ernie_core.api import ConfigError, WeightsError
from ernie_data.vision.entries import VisionTransformersConfig
from ernie_data.vision.model import VisionError, VisionReason, build_vision
from ernie_data.vision.structure import caption_pictures
from ernie_data.vision.transformers_model import TransformersVision

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and the special tokens."""
    inner = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}, merges=[]))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<|endoftext|>", eos_token="<|im_end|>", additional_special_tokens=SPECIAL
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():  # large enough that different pictures give different answers
            parameter.normal_(0, 0.3)
    # as released: sampling and a penalty, which greedy decoding must not take over
    model.generation_config.update(eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]], do_sample=True, top_k=20, repetition_penalty=1.5)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vision") / "tiny"
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    Qwen2VLImageProcessorPil(
        patch_size=16, size={"shortest_edge": 32 * 32, "longest_edge": 128 * 128}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(path)
    # the names that released folders hold
    stored = json.loads((path / "preprocessor_config.json").read_text())
    stored |= {"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor"}
    (path / "preprocessor_config.json").write_text(json.dumps(stored))
    return path


def vision(folder: Path, **options) -> TransformersVision:
    model = build_vision(
        VisionTransformersConfig(path=str(folder), **({"dtype": "float32", "device": "cpu", "max_new_tokens": 12} | options))
    )
    assert isinstance(model, TransformersVision)
    return model


def png(width: int, height: int, seed: int = 0) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(data, format="PNG")
    return data.getvalue()


def raw_ids(model: TransformersVision, images: list[bytes], instruction: str = "what?") -> list[list[int]]:
    prompt = model._prompt(instruction)
    return model._generate([model._inputs(data, prompt) for data in images]).tolist()


def test_the_prompt_and_pixels_are_those_of_the_models_own_processor(folder, monkeypatch):
    model = vision(folder)
    monkeypatch.setattr(Qwen3VLProcessor, "check_argument_for_proper_class", lambda self, name, value: None)  # it wants a video processor
    tokenizer = tiny_tokenizer()
    processor = Qwen3VLProcessor(image_processor=model._image_processor, tokenizer=tokenizer, chat_template=TEMPLATE)
    data = png(100, 70)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expected = processor(text=[text], images=[Image.open(io.BytesIO(data)).convert("RGB")], return_tensors="pt")
    ours = model._inputs(data, model._prompt("what?"))
    assert ours.ids == expected["input_ids"][0].tolist()
    assert torch.equal(ours.pixels_PD, expected["pixel_values"])
    assert torch.equal(ours.grid_13, expected["image_grid_thw"])
    pictures = torch.tensor(ours.ids) == model._picture_id
    assert torch.equal(pictures.int(), expected["mm_token_type_ids"][0].int())


def test_greedy_decoding_is_the_argmax_of_whole_forward_passes(folder):
    """The oracle: no cache, no generate, one forward pass per token."""
    model = vision(folder, max_new_tokens=6)
    inputs = model._inputs(png(64, 48), model._prompt("what?"))
    ids = list(inputs.ids)
    for _ in range(6):
        row = torch.tensor([ids])
        with torch.no_grad():
            logits = model._model(
                input_ids=row,
                mm_token_type_ids=(row == model._picture_id).int(),
                pixel_values=inputs.pixels_PD,
                image_grid_thw=inputs.grid_13,
            ).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] in model._ends:
            break
    new = ids[len(inputs.ids) :]
    assert raw_ids(model, [png(64, 48)])[0][: len(new)] == new


def test_an_answer_depends_on_its_picture_alone(folder):
    model, pair = vision(folder), [png(64, 48, 1), png(32, 96, 2)]
    alone = [raw_ids(model, [data])[0] for data in pair]
    assert alone[0] != alone[1]
    assert [raw_ids(model, [data])[0] for data in reversed(pair)] == alone[::-1]
    assert raw_ids(vision(folder), pair[:1])[0] == alone[0]


def test_padding_in_a_batch_does_not_change_what_is_written(folder):
    model = vision(folder)
    pictures = [png(64, 48, 1), png(32, 32, 2), png(128, 96, 3)]
    together = raw_ids(model, pictures)
    for row, data in zip(together, pictures):
        alone = raw_ids(model, [data])[0]
        assert row[: len(alone)] == alone


def test_nonsense_from_a_random_model_costs_each_picture_its_caption_and_no_more(folder):
    images = [png(64, 48, 1), b"broken", png(40, 40, 2), png(4000, 4, 3)]
    outcomes = caption_pictures(vision(folder, batch_size=2, side_px=4000), images)
    assert all(isinstance(outcome, VisionError) for outcome in outcomes)
    assert [outcomes[place].reason for place in (1, 3)] == [VisionReason.PICTURE, VisionReason.PICTURE]
    assert {outcomes[place].reason for place in (0, 2)} <= {VisionReason.TOO_LONG, VisionReason.GARBAGE}


def test_an_answer_ends_at_any_end_token_and_without_one_is_too_long(folder):
    model = vision(folder)
    words = model._tokenizer("fine")["input_ids"]
    for end in model._ends:
        assert model._text([*words, end, *words]) == "fine"
    assert model._text(words).reason is VisionReason.TOO_LONG
    assert model._text([model._ends[0]]).reason is VisionReason.GARBAGE
    assert len(model._ends) == 2


def test_a_group_that_is_too_large_for_the_device_is_run_one_by_one(folder, monkeypatch):
    model = vision(folder, batch_size=3)
    images = [png(64, 48, 1), png(32, 32, 2), png(16, 16, 3)]
    expected = [model.describe([data], "what?")[0] for data in images]
    generate, sizes = model._generate, []

    def small_device(group):
        sizes.append(len(group))
        if len(group) > 1 or group[0].grid_13.prod() > 10:
            raise torch.OutOfMemoryError("too much")
        return generate(group)

    monkeypatch.setattr(model, "_generate", small_device)
    outcomes = model.describe(images, "what?")
    assert sizes == [3, 1, 1, 1]
    assert outcomes[0].reason is VisionReason.OUT_OF_MEMORY
    assert outcomes[1:] == expected[1:]


class TestLoading:
    def test_a_hub_id_needs_a_revision(self):
        with pytest.raises(ConfigError, match="pin it with `revision`"):
            vision(Path("some/model"))

    def test_a_device_that_is_not_there(self, folder):
        with pytest.raises(ConfigError, match="cuda:99"):
            vision(folder, device="cuda:99")

    def test_another_kind_of_model_is_refused(self, folder, tmp_path):
        _copy(folder, tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": config["text_config"]["vocab_size"]}))
        with pytest.raises(WeightsError, match=r"model_type 'bert', expected one of qwen3_vl"):
            vision(tmp_path)

    def test_weights_as_a_pickle_are_refused(self, folder, tmp_path):
        _copy(folder, tmp_path)
        (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
        with pytest.raises(WeightsError):
            vision(tmp_path)

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"])
    def test_a_missing_or_damaged_file_is_named_with_its_folder(self, folder, tmp_path, name):
        _copy(folder, tmp_path)
        (tmp_path / name).write_bytes(b"{ damaged")
        with pytest.raises(WeightsError, match=str(tmp_path)):
            vision(tmp_path)

    def test_missing_tensors_are_named(self, folder, tmp_path):
        from safetensors.torch import load_file, save_file

        _copy(folder, tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        gone = next(name for name in tensors if "norm" in name)
        save_file({k: v for k, v in tensors.items() if k != gone}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(WeightsError, match="1 tensors are missing"):
            vision(tmp_path)

    def test_the_template_of_older_releases_is_found(self, folder, tmp_path):
        _copy(folder, tmp_path)
        (tmp_path / "chat_template.jinja").unlink()
        with pytest.raises(WeightsError, match=r"no chat template with pictures.*chat_template.json"):
            vision(tmp_path)
        (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
        assert vision(tmp_path)._prompt("what?") == vision(folder)._prompt("what?")

    def test_a_template_without_a_place_for_the_picture(self, folder):
        model = vision(folder)
        model._tokenizer.chat_template = TEMPLATE.replace("<|image_pad|>", "")
        with pytest.raises(WeightsError, match="gives 0 placeholders"):
            model.describe([png(16, 16)], "what?")


def _copy(folder: Path, target: Path) -> None:
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
