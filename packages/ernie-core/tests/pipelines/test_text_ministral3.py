"""The ministral3 encoder against the released pipeline's ``encode_prompt``."""

import hashlib
import json
import shutil
import warnings

import pytest
import torch

from ernie_core.errors import WeightsError
from ernie_core.plugins.hookspecs import EncoderContext
from ernie_core.testing.tiny import tiny_pipeline
from ernie_core.text.entries import Ministral3Config
from ernie_core.text.ministral3 import build_ministral3
from ernie_core.text.truncation import TruncationWarning

PROMPTS = [
    "a large red circle at the top left",
    "",
    "一只红色的猫",
    "x",
    "poster with the title OPEN, two small blue squares and a lamp",
    "",
]
TOLERANCE = 2e-6  # of the embeddings' scale: batched matrix products round differently


def build(folder, *, dtype=torch.float32, batch_size=16):
    return build_ministral3(Ministral3Config(path=str(folder), batch_size=batch_size), EncoderContext(torch.device("cpu"), dtype, 0))


@pytest.fixture(scope="module", params=["mistral3", "ministral3"])
def both(request, tmp_path_factory):
    """The two classes a text encoder comes as, in memory and on disk."""
    reference = tiny_pipeline(kind=request.param)
    folder = tmp_path_factory.mktemp(request.param) / "pipeline"
    reference.save_pretrained(folder)
    return reference, folder


def worst(text, expected):
    scale = max(float(row.abs().max()) for row in expected)
    return max(float((row - other).abs().max()) for row, other in zip(text.unpadded(), expected, strict=True)) / scale


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_a_batch_equals_the_pipeline_one_prompt_at_a_time(both, batch_size):
    reference, folder = both
    expected = reference.encode_prompt(PROMPTS, "cpu")
    text = build(folder, batch_size=batch_size).encode(PROMPTS)
    assert text.lens == tuple(row.shape[0] for row in expected)
    assert worst(text, expected) < TOLERANCE
    for row, length in zip(text.text_BTE, text.lens):
        assert not row[length:].any()


def test_the_embedding_is_the_output_of_the_last_layer_but_one(both):
    reference, folder = both
    language_model = getattr(reference.text_encoder, "language_model", reference.text_encoder)
    seen = []
    handle = language_model.layers[-2].register_forward_hook(lambda module, arguments, output: seen.append(output))
    reference.encode_prompt(PROMPTS[0], "cpu")
    handle.remove()
    hidden = (seen[0][0] if isinstance(seen[0], tuple) else seen[0]).detach()
    text = build(folder).encode([PROMPTS[0]])
    assert worst(text, [hidden.reshape(-1, hidden.shape[-1])]) < TOLERANCE
    normed = language_model.norm(hidden).detach().reshape(-1, hidden.shape[-1])
    assert worst(text, [normed]) > 0.05  # the final norm would be seen


def test_what_is_not_needed_is_dropped_in_memory_only(both):
    _, folder = both
    before = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}
    encoder = build(folder)
    encoder.encode(PROMPTS)
    names = [name for name, _ in encoder.language_model.named_parameters()]
    assert not any("vision" in name or name == "norm.weight" or name.startswith("layers.2.") for name in names)
    assert any(name.startswith("layers.1.") for name in names)
    assert {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()} == before
    assert not encoder.trainable
    assert not any(parameter.requires_grad for parameter in encoder.language_model.parameters())


def test_the_empty_prompt_is_one_token_encoded_once(both):
    _, folder = both
    encoder = build(folder)
    calls = []
    encoder.language_model.register_forward_pre_hook(
        lambda module, arguments, options: calls.append(options["input_ids"].tolist()), with_kwargs=True
    )
    for _ in range(3):
        text = encoder.encode(["", "", ""])
    assert text.lens == (1, 1, 1)
    assert calls == [[[1]]]  # <s>, once
    encoder.encode(["", "red"])
    assert len(calls) == 2


def test_a_tokenizer_that_gives_nothing_gets_its_first_token(pipeline_folder):
    encoder = build(pipeline_folder)
    encoder.tokenizer._tokenizer.post_processor = None  # no <s> is added any more, so "" has no token at all
    assert encoder.tokenizer("")["input_ids"] == []
    assert encoder._tokenize([""]) == [[encoder.tokenizer.bos_token_id]]
    encoder.tokenizer.bos_token = None
    assert encoder._tokenize([""]) == [[0]]


def test_long_prompts_are_cut_as_the_pipeline_cuts_them_with_a_warning_that_counts(tmp_path):
    reference = tiny_pipeline(model_max_length=6)
    reference.save_pretrained(tmp_path / "pipeline")
    encoder = build(tmp_path / "pipeline")
    prompts = ["x y z", "zzzzzzzzzz", "", "qqqqqqqqqqqq"]
    whole = [len(reference.tokenizer(p, truncation=False)["input_ids"]) for p in prompts]
    excess = [n - 6 for n in whole if n > 6]
    assert len(excess) == 2
    message = f"2 of 3 prompts are longer than 6 tokens: {sum(excess)} tokens were cut, up to {max(excess)} from one prompt"
    with pytest.warns(TruncationWarning, match=message):
        text = encoder.encode(prompts)
    assert worst(text, reference.encode_prompt(prompts, "cpu")) < TOLERANCE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(["x", ""])


def test_bfloat16_weights_give_bfloat16_embeddings(pipeline_folder):
    encoder = build(pipeline_folder, dtype=torch.bfloat16)
    text = encoder.encode(PROMPTS)
    assert text.text_BTE.dtype == torch.bfloat16
    assert worst(text.to(dtype=torch.float32), build(pipeline_folder).encode(PROMPTS).unpadded()) < 0.1


def test_missing_foreign_and_damaged_folders_are_named(pipeline_folder, tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere/text_encoder/config\.json: missing; expected a pipeline folder"):
        build(tmp_path / "nowhere")
    folder = shutil.copytree(pipeline_folder, tmp_path / "pipeline")
    config = folder / "text_encoder" / "config.json"
    plain = json.loads(config.read_text())
    config.write_text(json.dumps({**plain, "model_type": "llama"}))
    with pytest.raises(WeightsError, match="model_type 'llama', expected one of ministral3, mistral3"):
        build(folder)
    config.write_text("{")
    with pytest.raises(WeightsError, match=r"text_encoder/config\.json: not readable as JSON"):
        build(folder)
    config.write_text(json.dumps(plain))
    weights = folder / "text_encoder" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(WeightsError, match=r"text_encoder/model\.safetensors: not a complete safetensors file"):
        build(folder)
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(WeightsError, match=r"found only pytorch_model\.bin; pickles can run code and are never read"):
        build(folder)


def test_missing_tensors_are_an_error_and_not_random_weights(pipeline_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(pipeline_folder, tmp_path / "pipeline")
    file = folder / "text_encoder" / "model.safetensors"
    state = load_file(file)
    gone = next(name for name in sorted(state) if name.endswith("layers.1.mlp.up_proj.weight"))
    del state[gone]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"1 tensors are missing or have another shape, among them .*layers\.1\.mlp\.up_proj\.weight"):
        build(folder)
