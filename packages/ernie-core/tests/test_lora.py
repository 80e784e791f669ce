"""LoRA files: exact keys, every format that is read, scales, folders merged and extracted, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ernie_core.adapters.algebra import merged
from ernie_core.adapters.bank import AdapterBank, linear_maps
from ernie_core.adapters.config import AdapterConfig
from ernie_core.cli.main import main
from ernie_core.config.load import from_plain
from ernie_core.errors import ConfigError, WeightsError
from ernie_core.io import sha256_file
from ernie_core.model.load import load_transformer
from ernie_core.testing.resume import one_thread
from ernie_core.testing.runs import TINY_RUN
from ernie_core.testing.runs import merged as merged_tables
from ernie_core.testing.tiny import tiny_config, tiny_dit
from ernie_core.train.start import train
from ernie_core.weights.lora import Factors, load_lora, read_lora, save_lora, write_lora
from ernie_core.weights.lora_folders import extract_lora, merge_folder
from ernie_core.weights.lora_keys import parse_keys

ONE_LAYER = tiny_config(num_layers=1)

# Module names of comfy/ldm/ernie/model.py, after "diffusion_model." as comfy/lora.py maps them (ComfyUI, spring 2026), without the convolution.
COMFYUI_MODULES = """\
text_proj
time_embedding.linear_1
time_embedding.linear_2
adaLN_modulation.1
layers.0.self_attention.to_q
layers.0.self_attention.to_k
layers.0.self_attention.to_v
layers.0.self_attention.to_out.0
layers.0.mlp.gate_proj
layers.0.mlp.up_proj
layers.0.mlp.linear_fc2
final_norm.linear
final_linear""".splitlines()


def bank(config=None, *, seed=0):
    return AdapterBank(tiny_dit(config, seed=seed).requires_grad_(False))


def random_adapter(on, name="a", **config):
    adapter = on.add(name, AdapterConfig(**{"rank": 2, **config}))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return adapter


def change(on, adapter):
    """What the adapter adds to every weight."""
    base = on.model.state_dict()
    return {key: value - base[key] for key, value in merged(base, adapter).items()}


def assert_same_change(on, one, other):
    assert one.targets.keys() == other.targets.keys()
    expected = change(on, one)
    for key, value in change(on, other).items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=1e-5)


@pytest.fixture
def file(tmp_path):
    """Writes a LoRA of two maps as another program would; ``changes`` replace tensors, None removes one."""

    def write(changes=None, *, name="lora.safetensors", metadata=None, prefix="transformer."):
        tensors = {}
        for target in ("layers.0.self_attention.to_q", "layers.1.self_attention.to_q"):
            tensors[f"{prefix}{target}.lora_A.weight"] = torch.ones(2, 64)
            tensors[f"{prefix}{target}.lora_B.weight"] = torch.ones(64, 2)
        tensors = {key: value for key, value in {**tensors, **(changes or {})}.items() if value is not None}
        save_file(tensors, tmp_path / name, metadata=metadata)
        return tmp_path / name

    return write


Q0 = "transformer.layers.0.self_attention.to_q"


# ---- keys ----


@pytest.mark.parametrize(("format", "prefix"), [("comfyui", "diffusion_model."), ("diffusers", "transformer.")])
def test_every_key_of_a_small_model_is_the_one_that_the_program_reads(tmp_path, format, prefix):
    on = bank(ONE_LAYER)
    save_lora(tmp_path / "a.safetensors", random_adapter(on, targets=("all",)), format=format)
    found = load_file(tmp_path / "a.safetensors")
    assert set(found) == {f"{prefix}{module}.lora_{part}.weight" for module in COMFYUI_MODULES for part in "AB"}
    assert set(COMFYUI_MODULES) == set(on.linears)
    for module in COMFYUI_MODULES:
        out_features, in_features = on.model.state_dict()[f"{module}.weight"].shape
        assert found[f"{prefix}{module}.lora_A.weight"].shape == (2, in_features)
        assert found[f"{prefix}{module}.lora_B.weight"].shape == (out_features, 2)


def test_the_keys_of_kohya_mean_one_linear_map_each():
    names = list(linear_maps(tiny_dit(tiny_config(num_layers=12))))
    flat = {f"lora_unet_{name.replace('.', '_')}.lora_down.weight": name for name in names}
    assert {key: value.name for key, value in parse_keys(flat, where="x").items()} == flat
    assert len(flat) == len(names)


# ---- round trips and formats ----


@pytest.mark.parametrize(
    "targets", [("to_k",), ("to_q", "to_v"), AdapterConfig().targets, ("all",), ("layers.1.mlp.up_proj", "final_linear")]
)
@pytest.mark.parametrize("format", ["diffusers", "comfyui"])
def test_what_is_saved_is_loaded_again(tmp_path, targets, format):
    on = bank()
    adapter = random_adapter(on, rank=3, alpha=1.5, targets=targets)
    save_lora(tmp_path / "a.safetensors", adapter, format=format)
    again = load_lora(tmp_path / "a.safetensors", on, "again")
    assert (again.config.rank, again.config.scale) == (3, 1.0)
    assert_same_change(on, adapter, again)
    assert on.active == {}
    file = read_lora(tmp_path / "a.safetensors")
    assert (file.format, file.ranks, file.alphas) == (format, (3,), (3.0,))


def test_the_targets_of_a_file_are_named_by_kind_where_all_of_a_kind_are_there(tmp_path):
    on = bank()
    wanted = {
        ("to_q", "to_v"): ("self_attention.to_q", "self_attention.to_v"),
        ("layers.1.mlp.up_proj",): ("layers.1.mlp.up_proj",),
        ("all",): ("all",),
    }
    for place, (targets, expected) in enumerate(wanted.items()):
        save_lora(tmp_path / f"{place}.safetensors", random_adapter(on, f"{place}", targets=targets))
        assert load_lora(tmp_path / f"{place}.safetensors", on, f"again{place}").config.targets == expected


@pytest.mark.parametrize(
    ("prefix", "down", "up", "format"),
    [
        ("transformer.", "lora_A.weight", "lora_B.weight", "diffusers"),
        ("transformer.", "lora_down.weight", "lora_up.weight", "diffusers"),
        ("diffusion_model.", "lora_A.weight", "lora_B.weight", "comfyui"),
        ("diffusion_model.", "lora_down.weight", "lora_up.weight", "comfyui"),
        ("base_model.model.", "lora_A.weight", "lora_B.weight", "peft"),
        ("base_model.model.", "lora_A.default.weight", "lora_B.default.weight", "peft"),
        ("lora_unet_", "lora_down.weight", "lora_up.weight", "kohya"),
    ],
)
@pytest.mark.parametrize("alpha", [None, 1.0, 6.0])
def test_files_of_other_programs_mean_the_same(tmp_path, prefix, down, up, format, alpha):
    on = bank()
    adapter = random_adapter(on, alpha=alpha, targets=("all",))
    tensors = {}
    for name in adapter.targets:
        path = prefix + (name.replace(".", "_") if format == "kohya" else name)
        tensors[f"{path}.{down}"] = adapter.low_rank(name).lora_A.weight.detach().clone()
        tensors[f"{path}.{up}"] = adapter.low_rank(name).lora_B.weight.detach().clone()
        if alpha is not None:
            tensors[f"{path}.alpha"] = torch.tensor(alpha)
    save_file(tensors, tmp_path / "other.safetensors")
    assert read_lora(tmp_path / "other.safetensors").format == format
    again = load_lora(tmp_path / "other.safetensors", on, "again")
    assert again.config.alpha == (alpha if alpha is not None else 2.0)
    assert_same_change(on, adapter, again)


@pytest.mark.parametrize("alphas", [(2.0, 8.0), (2.0, 4.0), (0.0, -4.0)])
def test_ranks_and_scales_that_differ_are_kept_apart(tmp_path, alphas):
    on, generator = bank(), torch.Generator().manual_seed(1)
    factors = {}
    for name, rank, alpha in (("layers.0.mlp.up_proj", 2, alphas[0]), ("layers.1.self_attention.to_k", 4, alphas[1])):
        target = on.linears[name]
        lora_A = torch.randn(rank, target.in_features, generator=generator)
        factors[name] = Factors(lora_A, torch.randn(target.out_features, rank, generator=generator), alpha)
    write_lora(tmp_path / "mixed.safetensors", factors, format="comfyui", facts={})
    found = change(on, load_lora(tmp_path / "mixed.safetensors", on, "mixed"))
    assert read_lora(tmp_path / "mixed.safetensors").ranks == (2, 4)
    for name, pair in factors.items():
        torch.testing.assert_close(found.pop(f"{name}.weight"), pair.scale * pair.lora_B @ pair.lora_A, atol=1e-5, rtol=1e-5)
    assert all(not value.any() for value in found.values())


def test_what_fills_up_a_smaller_rank_never_learns(tmp_path):
    on = bank()
    a, b = (Factors(torch.randn(r, 64), torch.randn(64, r), float(r)) for r in (2, 5))
    write_lora(
        tmp_path / "m.safetensors", {"layers.0.self_attention.to_q": a, "layers.0.self_attention.to_k": b}, format="diffusers", facts={}
    )
    adapter = load_lora(tmp_path / "m.safetensors", on, "m")
    with on.using("m"):
        on.model(torch.randn(1, 16, 4, 4), torch.tensor([500.0]), torch.randn(1, 5, 32), torch.tensor([5])).square().sum().backward()
    low_rank = adapter.low_rank("layers.0.self_attention.to_q")
    assert low_rank.lora_A.weight.grad[:2].any()
    assert not low_rank.lora_A.weight.grad[2:].any()
    assert not low_rank.lora_B.weight.grad[:, 2:].any()


def test_alpha_over_rank_is_written_into_b_in_float32(tmp_path):
    adapter = random_adapter(bank(), rank=3, alpha=2.0, targets=("to_k",))
    save_lora(tmp_path / "a.safetensors", adapter.to(torch.bfloat16))
    save_lora(tmp_path / "half.safetensors", adapter, dtype=torch.bfloat16)
    found, key = load_file(tmp_path / "a.safetensors"), "transformer.layers.1.self_attention.to_k.lora_B.weight"
    low_rank = adapter.low_rank("layers.1.self_attention.to_k")
    assert torch.equal(found[key], low_rank.lora_B.weight.float() * (2 / 3))
    assert torch.equal(load_file(tmp_path / "half.safetensors")[key], found[key].to(torch.bfloat16))


def test_the_config_of_diffusers_gives_the_scale(file):
    fields = {"r": 2, "lora_alpha": 6, "alpha_pattern": {"^layers.0.self_attention.to_q": 1}, "use_rslora": False}
    stored = json.dumps({**{f"transformer.{k}": v for k, v in fields.items()}, "text_encoder.lora_alpha": 99})
    found = read_lora(file(metadata={"lora_adapter_metadata": stored}))
    assert {name.split(".")[1]: pair.alpha for name, pair in found.factors.items()} == {"0": 1.0, "1": 6.0}
    loaded = load_lora(found.where, bank(), "x")
    assert loaded.config.alpha is None
    assert torch.equal(loaded.low_rank("layers.1.self_attention.to_q").lora_B.weight, torch.full((64, 2), 3.0))


# ---- refusals ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{Q0}.lora_B.weight": None}, r"factors come in pairs: layers\.0\.self_attention\.to_q lacks lora_B\. The file is incomplete"),
        ({f"{Q0}.lora_A.weight": None}, r"lacks lora_A"),
        ({"transformer.layers.0.mlp.up_proj.alpha": torch.ones(())}, r"up_proj lacks lora_A, layers\.0\.mlp\.up_proj lacks lora_B"),
        ({f"{Q0}.lora_A.weight": torch.ones(3, 64)}, r"lora_A \[3, 64\] and lora_B \[64, 2\], expected \[rank, in\] and \[out, rank\]"),
        ({f"{Q0}.lora_A.weight": torch.ones(2, 64, 1, 1)}, r"of convolutions none is read"),
        ({f"{Q0}.lora_A.weight": torch.full((2, 64), torch.nan)}, r"to_q\.lora_A\.weight holds NaN or infinite values"),
        ({f"{Q0}.lora_B.weight": torch.full((64, 2), torch.inf)}, r"to_q\.lora_B\.weight holds NaN or infinite values"),
        ({f"{Q0}.alpha": torch.tensor(torch.nan)}, r"to_q\.alpha holds NaN"),
        ({f"{Q0}.alpha": torch.ones(2)}, r"alpha has 2 values, expected one"),
        ({f"{Q0}.lora_A.weight": torch.ones(2, 64, dtype=torch.int32)}, r"is of type torch\.int32, expected floating point"),
        ({f"{Q0}.lora_down.weight": torch.ones(2, 64)}, r"is the second A of layers\.0\.self_attention\.to_q"),
        (
            {"text_encoder.layers.0.q_proj.lora_A.weight": torch.ones(2, 8)},
            r"1 keys adapt a text encoder, .*: text_encoder\.layers\.0\.q_proj",
        ),
        ({"lora_te1_layers_0_q_proj.lora_down.weight": torch.ones(2, 8)}, r"adapt a text encoder"),
        ({f"{Q0}.dora_scale": torch.ones(64)}, r"holds DoRA \(transformer.*dora_scale\); only plain LoRA"),
        ({f"{Q0}.lokr_w1": torch.ones(2, 2)}, r"holds LoKr"),
        ({f"{Q0}.lora_B.bias": torch.ones(64)}, r"holds a LoRA with biases"),
        ({f"diffusion_model.{Q0[12:]}.lora_A.weight": torch.ones(2, 64)}, r"mixes keys of comfyui and diffusers"),
        ({"layers.0.weight": torch.ones(2)}, r"1 of 5 keys are no LoRA keys of this model: layers\.0\.weight\. Expected transformer\.\.\."),
        (
            {"lora_unet_double_blocks_0_img_attn.lora_down.weight": torch.ones(2)},
            r"are no LoRA keys of this model: lora_unet_double_blocks",
        ),
    ],
)
def test_files_that_are_no_sound_lora_are_refused(file, changes, message):
    with pytest.raises(WeightsError, match=message):
        read_lora(file(changes))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("{", r"lora_adapter_metadata is not readable as JSON"),
        ("[]", r"lora_adapter_metadata is a list, expected a JSON object"),
        ('{"transformer.r": 4}', r"to_q has rank 2, the config says 4"),
        ('{"transformer.r": 2, "transformer.lora_alpha": "6"}', r"the config's alpha is '6', expected a number"),
        ('{"transformer.r": 2, "transformer.use_dora": true}', r"use_dora; only plain LoRA"),
        ('{"transformer.rank_pattern": []}', r"a pattern of the config is a list"),
        ('{"transformer.r": 2, "transformer.alpha_pattern": {"(a+)+$": 3}}', r"the config has the pattern '\(a\+\)\+\$'; only names"),
    ],
)
def test_a_config_that_contradicts_the_factors_is_refused(file, stored, message):
    with pytest.raises(WeightsError, match=message):
        read_lora(file(metadata={"lora_adapter_metadata": stored}))


def test_a_scale_that_comfyui_and_diffusers_read_differently_is_refused(file):
    stored = {"lora_adapter_metadata": '{"transformer.r": 2, "transformer.lora_alpha": 6}'}
    with pytest.raises(
        WeightsError, match=r"ComfyUI reads these keys at scale 1, diffusers at the scale of the header's lora_adapter_metadata"
    ):
        read_lora(file(prefix="diffusion_model.", metadata=stored))
    assert read_lora(file(metadata=stored)).alphas == (6.0,)


def test_a_lora_of_another_model_is_refused_with_the_nearest_names(tmp_path, file):
    on = bank()
    pair = {"lora_A": torch.ones(2, 8), "lora_B": torch.ones(8, 2)}
    save_file(
        {f"transformer.transformer_blocks.{i}.attn.to_q.{k}.weight": v.clone() for i in range(9) for k, v in pair.items()},
        tmp_path / "f.safetensors",
    )
    with pytest.raises(WeightsError) as raised:
        load_lora(tmp_path / "f.safetensors", on, "x")
    assert "9 of 9 adapted layers are no linear maps of this model: transformer_blocks.0.attn.to_q" in str(raised.value)
    assert str(raised.value).endswith("... and 4 more. The LoRA belongs to another model.")
    deep = file({f"transformer.layers.7.self_attention.to_q.{k}.weight": v for k, v in pair.items()})
    with pytest.raises(
        WeightsError,
        match=r"layers\.7\.self_attention\.to_q \(nearest: layers\..*\)\. The LoRA belongs to a model of other depth or design",
    ):
        load_lora(deep, on, "x")
    with pytest.raises(
        WeightsError,
        match=r"2 pairs do not fit the model, which has other sizes: layers\.0.*: found \[2, 64\] and \[64, 2\], expected \[\[2, 32\]",
    ):
        load_lora(file(), bank(tiny_config(hidden_size=32, num_attention_heads=2)), "x")
    assert on.adapters == {}, "nothing was added"
    load_lora(file(), on, "x")
    with pytest.raises(ConfigError, match="there is an adapter called `x` already"):
        load_lora(file(), on, "x")


def test_only_safetensors_are_opened(tmp_path):
    for name in ("a.pt", "a.bin", "a.ckpt"):
        (tmp_path / name).write_bytes(b"\x80\x04")
        with pytest.raises(WeightsError, match="a pickle can run code and is never read"):
            read_lora(tmp_path / name)
    (tmp_path / "b.safetensors").write_bytes(b"\x80\x04")
    with pytest.raises(WeightsError, match="not a complete safetensors file"):
        read_lora(tmp_path / "b.safetensors")
    save_file({}, tmp_path / "c.safetensors")
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_lora(tmp_path / "c.safetensors")


def test_nothing_is_overwritten_and_nothing_broken_is_written(tmp_path):
    adapter = random_adapter(bank(), targets=("to_k",))
    with pytest.raises(WeightsError, match=r"expected a name ending in \.safetensors"):
        save_lora(tmp_path / "a.pt", adapter)
    with pytest.raises(WeightsError, match="LoRA format 'kohya': expected one of diffusers, comfyui"):
        save_lora(tmp_path / "a.safetensors", adapter, format="kohya")
    save_lora(tmp_path / "a.safetensors", adapter)
    with pytest.raises(WeightsError, match="already exists, and an export never overwrites"):
        save_lora(tmp_path / "a.safetensors", adapter)
    adapter.low_rank("layers.0.self_attention.to_k").lora_A.weight.data[0, 0] = torch.nan
    with pytest.raises(WeightsError, match=r"to_k: lora_A times its scale holds NaN .*nothing was written"):
        save_lora(tmp_path / "b.safetensors", adapter)
    assert not (tmp_path / "b.safetensors").exists()


# ---- folders ----


@pytest.fixture
def base(tmp_path):
    """A pipeline folder as far as merging looks: an index, another component, and a transformer in two shards."""
    root = tmp_path / "base"
    (root / "transformer").mkdir(parents=True)
    (root / "vae").mkdir()
    weights = {key: value.contiguous() for key, value in tiny_dit().state_dict().items()}
    keys = list(weights)
    shards = {
        "diffusion_pytorch_model-00001-of-00002.safetensors": keys[:15],
        "diffusion_pytorch_model-00002-of-00002.safetensors": keys[15:],
    }
    for name, part in shards.items():
        save_file({key: weights[key] for key in part}, root / "transformer" / name, metadata={"format": "pt", "of": name})
    index = {"metadata": {}, "weight_map": {key: name for name, part in shards.items() for key in part}}
    (root / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (root / "transformer" / "config.json").write_text(json.dumps(tiny_config().to_diffusers()))
    (root / "model_index.json").write_text(
        '{"_class_name": "ErnieImagePipeline", "transformer": ["diffusers", "ErnieImageTransformer2DModel"]}'
    )
    (root / "vae" / "weights.safetensors").write_bytes(b"as it is")
    (root / "vae" / "old.bin").write_bytes(b"pickle")
    (root / ".git").mkdir()
    (root / ".git" / "x").write_bytes(b"hidden")
    return root


@pytest.fixture
def lora(tmp_path):
    on = bank()
    save_lora(tmp_path / "lora.safetensors", random_adapter(on, rank=3, alpha=2.0, targets=("all",)), format="comfyui")
    return tmp_path / "lora.safetensors"


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_merging_writes_the_changed_weights_and_copies_the_rest(base, lora, tmp_path, strength):
    out = tmp_path / "out"
    count = merge_folder(base, lora, out, strength=strength)
    on = bank()
    adapter = load_lora(lora, on, "x")
    assert count == len(on.linears)
    expected = merged(on.model.state_dict(), adapter, strength=strength)
    found = load_transformer(out).state_dict()
    assert list(found) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-6, rtol=1e-6)
    assert any(not torch.equal(found[key], on.model.state_dict()[key]) for key in found)
    written = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    originals = {p.relative_to(base).as_posix() for p in base.rglob("*") if p.is_file()}
    assert written == originals - {"vae/old.bin", ".git/x"} | {"manifest.json"}
    for name in written - {"manifest.json"}:
        same = sha256_file(out / name) == sha256_file(base / name)
        assert same != name.startswith("transformer/diffusion_pytorch_model-"), name


def test_merging_keeps_the_type_of_the_weights_and_works_on_a_transformer_alone(base, lora, tmp_path):
    folder = base / "transformer"
    for shard in folder.glob("*.safetensors"):
        save_file({key: value.to(torch.bfloat16) for key, value in load_file(shard).items()}, shard)
    merge_folder(folder, lora, tmp_path / "out")
    on = bank()
    adapter = load_lora(lora, on, "x")  # in float32: factors are not rounded to the base's type before they are multiplied
    expected = merged({key: value.to(torch.bfloat16) for key, value in on.model.state_dict().items()}, adapter)
    for key, value in load_transformer(tmp_path / "out").state_dict().items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, expected[key]), key


def test_merges_that_cannot_be_are_refused_and_leave_nothing(base, lora, tmp_path):
    out = tmp_path / "out"

    def refused(message, *arguments, **options):
        with pytest.raises(WeightsError, match=message):
            merge_folder(*arguments, **options)
        assert not out.exists()

    refused("expected a diffusers pipeline or its transformer folder; export a run first", tmp_path / "nowhere", lora, out)
    refused("strength nan: expected a finite number", base, lora, out, strength=float("nan"))
    for shard in (base / "transformer").glob("*.safetensors"):
        save_file({key: value.half() for key, value in load_file(shard).items()}, shard)
    refused(r"the merged weight is not finite in torch\.float16; the strength is too high", base, lora, out, strength=1e9)
    save_file({}, base / "transformer" / "diffusion_pytorch_model.fp16.safetensors")
    refused(r"holds other weights too \(diffusion_pytorch_model\.fp16\.safetensors\)", base, lora, out)
    with pytest.raises(WeightsError, match="already exists, and an export never overwrites"):
        merge_folder(base, lora, base)


def test_a_lora_is_extracted_from_a_merged_folder(base, lora, tmp_path):
    merge_folder(base, lora, tmp_path / "tuned")
    found = extract_lora(base, tmp_path / "tuned", tmp_path / "again.safetensors", rank=3, format="comfyui")
    assert found.left_out < 1e-9
    assert found.others == ()
    on = bank()
    first, again = load_lora(lora, on, "first"), load_lora(tmp_path / "again.safetensors", on, "again")
    assert first.targets.keys() == again.targets.keys()
    expected = change(on, first)
    for key, value in change(on, again).items():
        torch.testing.assert_close(value, expected[key], atol=1e-5, rtol=1e-4)


def test_changes_that_a_lora_cannot_hold_are_refused_or_left_out_knowingly(base, lora, tmp_path):
    out = tmp_path / "x.safetensors"
    with pytest.raises(WeightsError, match="hold the same weights; there is nothing to extract"):
        extract_lora(base, base, out, rank=2)
    merge_folder(base, lora, tmp_path / "tuned")
    shard = tmp_path / "tuned" / "transformer" / "diffusion_pytorch_model-00002-of-00002.safetensors"
    tensors = load_file(shard)
    tensors["final_linear.bias"] += 1
    save_file(tensors, shard)
    with pytest.raises(WeightsError, match=r"1 changed tensors are beyond the LoRA: final_linear\.bias\. .*leave them out knowingly"):
        extract_lora(base, tmp_path / "tuned", out, rank=3)
    assert not out.exists()
    found = extract_lora(base, tmp_path / "tuned", out, rank=3, leave_out_others=True, targets=("to_q", "to_v"))
    assert len(found.targets) == 4
    assert "final_linear.bias" in found.others
    assert len(found.others) == len(linear_maps(tiny_dit())) - 4 + 1
    with pytest.raises(ConfigError, match="no linear map is called `to_x`"):
        extract_lora(base, tmp_path / "tuned", out, rank=3, targets=("to_x",))


# ---- the command line ----


@pytest.fixture
def ernie(capsys, monkeypatch):
    monkeypatch.setenv("ERNIE_DISABLE_PLUGINS", "data")

    def run(*arguments, code=0):
        assert main(["weights", "lora", *map(str, arguments)]) == code
        seen = capsys.readouterr()
        assert "Traceback" not in seen.err
        return seen.out if code == 0 else seen.err

    return run


def test_files_are_inspected_and_converted_on_the_command_line(ernie, lora, tmp_path):
    out = tmp_path / "new" / "out.safetensors"
    assert (
        ernie("convert", lora, out, "--format", "diffusers", "--dtype", "bfloat16") == f"{out}: diffusers LoRA of 20 linear maps, scale 1\n"
    )
    summary = json.loads(ernie("inspect", out, "--json"))
    assert {k: summary[k] for k in ("format", "ranks", "alphas", "scales", "dtypes")} == {
        "format": "diffusers",
        "ranks": [3],
        "alphas": [3.0],
        "scales": [1.0],
        "dtypes": ["bfloat16"],
    }
    assert summary["targets"]["self_attention.to_q"] == 2
    assert summary["metadata"]["converted_from"] == "comfyui"
    assert json.loads(summary["metadata"]["ernie_adapter_config"])["alpha"] == 2.0
    text = ernie("inspect", lora)
    assert text.startswith("comfyui LoRA: rank 3, scale 1, ")
    assert "  mlp.up_proj: 2\n" in text
    assert "already exists" in ernie("convert", lora, out, "--format", "diffusers", code=2)
    assert "invalid choice: 'kohya'" in ernie("convert", lora, tmp_path / "k.safetensors", "--format", "kohya", code=2)
    assert "no such file or folder" in ernie("inspect", tmp_path / "nothing.safetensors", code=2)


def test_models_are_merged_and_loras_extracted_on_the_command_line(ernie, base, lora, tmp_path):
    tuned, again = tmp_path / "tuned", tmp_path / "again.safetensors"
    assert (
        ernie("merge", "--base", base, "--lora", lora, "--out", tuned, "--strength", "0.5")
        == f"{tuned}: 20 linear maps merged at strength 0.5\n"
    )
    assert "holds 100.00% of the squared change" in ernie("extract", "--base", base, "--tuned", tuned, "--rank", 3, "--out", again)
    report = json.loads(ernie("extract", "--base", base, "--tuned", tuned, "--rank", 1, "--out", tmp_path / "one.safetensors", "--json"))
    assert report["targets"] == 20
    assert 0.05 < report["left_out"] < 0.95
    assert "--rank 0: expected at least 1" in ernie("extract", "--base", base, "--tuned", tuned, "--rank", 0, "--out", again, code=2)
    assert "--out" in ernie("merge", "--base", base, "--lora", lora, code=2)


def test_the_adapter_of_a_run_is_exported_on_the_command_line(ernie, toy_host, tmp_path):
    short = merged_tables(TINY_RUN, {"data": {"use": "toy-pictures"}, "run": {"steps": 4}, "samples": {"every_steps": 0}})
    tuning = merged_tables(short, {"model": {"init": str(tmp_path / "base")}, "method": {"use": "toy-adapter"}})
    for size in ("hidden_size", "num_attention_heads", "num_layers", "ffn_hidden_size"):
        tuning["model"].pop(size, None)
    with one_thread():
        for tables, name in ((short, "base"), (tuning, "run")):
            train(from_plain(tables, toy_host), host=toy_host, out=tmp_path / name)
    out = tmp_path / "run.safetensors"
    arguments = ("export", tmp_path / "run", out, "--format", "comfyui", "--raw", "--json")
    told = json.loads(ernie(*arguments))
    assert told["format"] == "comfyui"
    assert f"this LoRA changes the weights that {tmp_path / 'base'} trained" in told["notes"][0]
    assert read_lora(out).metadata["base"] == "base"
    on = AdapterBank(load_transformer(tmp_path / "base", dtype=torch.float32))
    trained = merged(on.model.state_dict(), load_lora(out, on, "x"))
    deployed = load_transformer(tmp_path / "run", raw=True, host=toy_host).state_dict()
    for key, value in deployed.items():
        torch.testing.assert_close(trained[key], value, atol=1e-7, rtol=1e-6)
    assert any(not torch.equal(value, on.model.state_dict()[key]) for key, value in deployed.items())
    assert read_lora(out).metadata["step"] == "4"
    assert "this run trained all weights; there is no adapter to write" in ernie(
        "export", tmp_path / "base", tmp_path / "b.safetensors", "--format", "diffusers", code=2
    )
