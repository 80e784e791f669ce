"""Loading transformers from disk, and every way in which that is refused."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ernie_core.errors import MissingComponent, WeightsError
from ernie_core.model import load_transformer
from ernie_core.model.config import DiTConfig
from ernie_core.model.dit import ErnieDiT
from ernie_core.ops.reference import ReferenceOps

CONFIG = DiTConfig(
    hidden_size=32,
    num_attention_heads=2,
    num_layers=2,
    ffn_hidden_size=48,
    in_channels=4,
    out_channels=4,
    text_in_dim=12,
    rope_axes_dim=(4, 6, 6),
)
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(t.shape, generator=draw) for name, t in ErnieDiT(CONFIG).state_dict().items()}


@pytest.fixture
def folder(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Path:
    """A transformer folder as diffusers writes it."""
    root = tmp_path / "transformer"
    root.mkdir()
    (root / "config.json").write_text(json.dumps(CONFIG.to_diffusers() | {"_diffusers_version": "0.42.1"}))
    save_file(weights, root / FILE)
    return root


def same(model: ErnieDiT, weights: dict[str, torch.Tensor]) -> bool:
    state = model.state_dict()
    return state.keys() == weights.keys() and all(torch.equal(state[name], weights[name].to(state[name].dtype)) for name in weights)


def shard(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    """Split the weights over two files, cutting a fused matrix in two, and write the index."""
    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file)
    index = folder / f"{FILE}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}))
    (folder / FILE).unlink()
    return index


def test_a_transformer_folder_and_a_pipeline_folder(folder, weights):
    assert same(load_transformer(folder), weights)
    (folder.parent / "model_index.json").write_text(json.dumps({"_class_name": "ErnieImagePipeline", "transformer": ["diffusers", "X"]}))
    model = load_transformer(folder.parent)
    assert same(model, weights)
    assert model.config == CONFIG


def test_shards(folder, weights):
    shard(folder, weights)
    assert same(load_transformer(folder), weights)


def test_dtype_and_op_set(folder, weights):
    model = load_transformer(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert same(model, weights)
    assert model.ops.name == "reference"
    assert load_transformer(folder).ops.name == "cpu-fused"
    ops = ReferenceOps("mine")
    assert load_transformer(folder, ops=ops).ops is ops
    with pytest.raises(MissingComponent, match='no op set of ernie-core is called "fast"'):
        load_transformer(folder, ops="fast")


def test_nothing_is_allocated_twice(folder):
    """Parameters are the tensors that were read into, not copies of a freshly initialised model."""
    model = load_transformer(folder)
    assert all(p.requires_grad and p.is_leaf and p.device.type == "cpu" for p in model.parameters())
    assert not any(p.is_meta for p in model.parameters())


def test_missing_extra_and_misshaped_tensors_are_listed_with_their_shapes(folder, weights):
    del weights["layers.0.self_attention.to_k.weight"]
    weights["layers.9.mlp.up_proj.weight"] = torch.zeros(3, 4)
    weights["text_proj.weight"] = torch.zeros(32, 13)
    save_file(weights, folder / FILE)
    with pytest.raises(WeightsError) as caught:
        load_transformer(folder)
    assert str(caught.value).splitlines() == [
        f"{folder / FILE}: 3 tensors do not fit the model:",
        "  layers.0.self_attention.to_k.weight: found nothing, expected [32, 32]",
        "  layers.9.mlp.up_proj.weight: found [3, 4], expected no such tensor",
        "  text_proj.weight: found [32, 13], expected [32, 12]",
    ]


def test_at_most_ten_tensors_are_listed(folder, weights):
    save_file({name: torch.zeros(7, 7) for name in weights}, folder / FILE)
    with pytest.raises(WeightsError) as caught:
        load_transformer(folder)
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert lines[-1] == f"  ... and {len(weights) - 10} more"


def test_a_truncated_file(folder):
    whole = (folder / FILE).read_bytes()
    for size in (0, 5, 200, len(whole) // 2, len(whole) - 1):
        (folder / FILE).write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=rf"{FILE}: not a complete safetensors file \({size} bytes\).*Fetch it again"):
            load_transformer(folder)


def test_a_missing_file(folder):
    (folder / FILE).unlink()
    with pytest.raises(WeightsError, match=f"{FILE} is missing"):
        load_transformer(folder)


def test_a_pickle_is_refused_and_never_read(folder, tmp_path):
    class Canary:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (folder / FILE).unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Canary()))
    with pytest.raises(WeightsError, match=r"found only diffusion_pytorch_model\.bin; pickles can run code and are never read"):
        load_transformer(folder)
    assert not (tmp_path / "ran").exists()


def test_a_missing_shard_a_broken_index_and_an_index_that_lies(folder, weights):
    index = shard(folder, weights)
    good = index.read_text()
    moved = json.loads(good)
    moved["weight_map"] = {name: "a.safetensors" for name in moved["weight_map"]}
    index.write_text(json.dumps(moved))
    with pytest.raises(
        WeightsError, match=r"a\.safetensors: .*index\.json promises .* here \(\d+ such tensors\), but the file does not hold it"
    ):
        load_transformer(folder)
    index.write_text(good.replace("b.safetensors", "../b.safetensors"))
    with pytest.raises(WeightsError, match="lies outside the folder"):
        load_transformer(folder)
    index.write_text('{"weight_map": [1]}')
    with pytest.raises(WeightsError, match="not a safetensors index"):
        load_transformer(folder)
    index.write_text(good)
    (folder / "b.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"b\.safetensors: the shard is missing"):
        load_transformer(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "FluxTransformer2DModel"}, "found a FluxTransformer2DModel, expected an ErnieImageTransformer2DModel"),
        ({"qk_layernorm": False}, "qk_layernorm = false is not supported"),
        ({"num_attention_heads": 5}, "hidden_size = 32 is not divisible by num_attention_heads = 5"),
        ({"rope_axes_dim": [4, 4, 4]}, r"rope_axes_dim = \[4, 4, 4\]: expected three even numbers with the sum 16"),
        ({"num_layers": "two"}, "Expected `int`, got `str`"),
        ({"guidance": True}, "unknown field `guidance`"),
    ],
)
def test_a_config_of_another_class_or_with_impossible_sizes(folder, change, message):
    (folder / "config.json").write_text(json.dumps(CONFIG.to_diffusers() | change))
    with pytest.raises(WeightsError, match=message) as caught:
        load_transformer(folder)
    assert str(folder / "config.json") in str(caught.value)


def test_paths_that_hold_no_transformer(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match="expected a folder with weights, found nothing"):
        load_transformer(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        WeightsError, match=rf"^absent: .*found nothing; the path is relative and was looked for in {re.escape(str(tmp_path))}$"
    ):
        load_transformer("absent")
    with pytest.raises(WeightsError, match="expected a folder with weights, found a file"):
        load_transformer(tmp_path / "file")
    with pytest.raises(WeightsError, match=r"found neither model_index\.json"):
        load_transformer(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(WeightsError, match="without a transformer folder"):
        load_transformer(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(WeightsError, match="not readable as JSON"):
        load_transformer(tmp_path)


def test_diffusers_reads_the_config_we_write_and_not_another_rope():
    assert DiTConfig.from_diffusers(CONFIG.to_diffusers()) == CONFIG
    settings = {field: getattr(CONFIG, field) for field in CONFIG.__struct_fields__}
    with pytest.raises(WeightsError, match='rope_layout = "standard"'):
        DiTConfig(**(settings | {"rope_layout": "standard"})).to_diffusers()
