"""LoRA files against diffusers: ours loaded by ErnieImagePipeline, and diffusers' loaded by us, with the same latents."""

import json

import pytest
import torch

from ernie_core.adapters.bank import AdapterBank
from ernie_core.adapters.config import AdapterConfig
from ernie_core.sampling.pipeline import load_pipeline
from ernie_core.testing.tiny import tiny_pipeline
from ernie_core.text.embeddings import pad_right
from ernie_core.weights.lora import Factors, load_lora, read_lora, save_lora, write_lora

PROMPTS = ["a large red circle at the top left", "一只红色的猫"]
SIZE_PX, STEPS, GUIDANCE, SEED = (48, 32), 4, 4.0, 7
TOLERANCE = 1e-5
TARGETS = [("to_k",), ("to_q", "to_v"), ("to_out.0", "up_proj"), AdapterConfig().targets, ("final_linear", "text_proj"), ("all",)]


@pytest.fixture(scope="module")
def theirs():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def embeddings(theirs):
    return theirs.encode_prompt(PROMPTS, "cpu"), theirs.encode_prompt(["", ""], "cpu")


@pytest.fixture(scope="module")
def ours(pipeline_folder, host):
    return load_pipeline(pipeline_folder, host=host)


@pytest.fixture
def bank(ours):
    yield AdapterBank(ours.transformer)
    for module in ours.transformer.modules():
        module._forward_hooks.clear()


@pytest.fixture
def their_latents(theirs, embeddings):
    yield (
        lambda: (
            theirs(
                prompt_embeds=embeddings[0],
                negative_prompt_embeds=embeddings[1],
                height=SIZE_PX[1],
                width=SIZE_PX[0],
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                generator=[torch.Generator("cpu").manual_seed(SEED + i) for i in range(2)],
                output_type="latent",
                use_pe=False,
            ).images
        )
    )
    theirs.unload_lora_weights()


@pytest.fixture
def our_latents(ours, bank, embeddings):
    def latents(*active, **strengths):
        text = (pad_right(embeddings[0]), pad_right(embeddings[1][:1]))
        with bank.using(*active, **strengths):
            noise = ours.noise(2, seed=SEED, size_px=SIZE_PX)
            return ours.sample_latents(text, noise_BCHW=noise, steps=STEPS, guidance_scale=GUIDANCE)

    return latents


def randomise(adapter, *, std=0.1):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return adapter


def error(found, expected):
    return float((found - expected).abs().max())


@pytest.mark.parametrize("format", ["diffusers", "comfyui"])
@pytest.mark.parametrize("targets", TARGETS, ids="+".join)
def test_diffusers_samples_with_our_file_what_we_sample(theirs, their_latents, our_latents, bank, tmp_path, targets, format):
    adapter = randomise(bank.add("mine", AdapterConfig(rank=3, alpha=5.0, targets=targets)))
    save_lora(tmp_path / "mine.safetensors", adapter, format=format)
    plain, expected = our_latents(), our_latents("mine")
    theirs.load_lora_weights(tmp_path, weight_name="mine.safetensors", adapter_name="mine")
    assert error(their_latents(), expected) <= TOLERANCE
    assert error(expected, plain) > 1e-2, "the adapter does something"
    theirs.set_adapters(["mine"], adapter_weights=[0.5])
    assert error(their_latents(), our_latents(mine=0.5)) <= TOLERANCE


@pytest.mark.parametrize("config", [True, False], ids=["with-config", "without-config"])
def test_ranks_that_differ_are_read_at_the_same_scale_by_both(theirs, their_latents, our_latents, bank, tmp_path, config):
    generator = torch.Generator().manual_seed(5)
    factors = {}
    for place, (name, target) in enumerate(bank.linears.items()):
        rank = 1 + place % 4
        lora_A, lora_B = (
            torch.randn(rank, target.in_features, generator=generator),
            torch.randn(target.out_features, rank, generator=generator),
        )
        factors[name] = Factors(lora_A * 0.1, lora_B * 0.1, alpha=float(2 + place % 3))
    write_lora(tmp_path / "mixed.safetensors", factors, format="diffusers" if config else "comfyui", facts={})
    adapter = load_lora(tmp_path / "mixed.safetensors", bank, "mixed")
    assert (adapter.config.rank, adapter.config.scale, adapter.config.targets) == (4, 1.0, ("all",))
    theirs.load_lora_weights(tmp_path, weight_name="mixed.safetensors")
    assert error(their_latents(), our_latents("mixed")) <= TOLERANCE


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("targets", [("to_k",), ("to_q", "to_v", "linear_fc2"), ("to_out.0", "final_linear", "gate_proj")], ids="+".join)
def test_a_lora_of_diffusers_gives_us_its_latents(theirs, their_latents, our_latents, bank, tmp_path, targets, rslora):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    patterns = {"rank_pattern": {"layers.1.self_attention.to_k": 2}, "alpha_pattern": {"to_k": 7}} if "to_k" in targets else {}
    theirs.transformer.add_adapter(
        LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, target_modules=list(targets), use_rslora=rslora, **patterns), "theirs"
    )
    randomise_theirs(theirs.transformer)
    theirs.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(theirs.transformer, adapter_name="theirs"),
        transformer_lora_adapter_metadata=theirs.transformer.peft_config["theirs"].to_dict(),
    )
    file = read_lora(tmp_path)
    assert file.format == "diffusers"
    assert file.ranks == ((2, 4) if "to_k" in targets else (4,))
    plain = our_latents()
    load_lora(tmp_path / "pytorch_lora_weights.safetensors", bank, "theirs")
    expected = their_latents()
    assert error(our_latents("theirs"), expected) <= TOLERANCE
    assert error(expected, plain) > 1e-2


def test_a_file_of_diffusers_without_its_config_has_scale_one_for_both(theirs, their_latents, our_latents, bank, tmp_path):
    """diffusers forgets alpha when it is not told to write it: what it then loads is another adapter, and so is what we load."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    theirs.transformer.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "up_proj"]), "theirs")
    randomise_theirs(theirs.transformer)
    theirs.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(theirs.transformer, adapter_name="theirs"))
    theirs.unload_lora_weights()
    theirs.load_lora_weights(tmp_path)
    load_lora(tmp_path, bank, "theirs")
    assert error(our_latents("theirs"), their_latents()) <= TOLERANCE


def test_pefts_own_folder_is_read_with_its_config(theirs, their_latents, our_latents, bank, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_pipeline().transformer, LoraConfig(r=3, lora_alpha=6, target_modules=["to_q", "linear_fc2"]))
    randomise_theirs(model)
    model.save_pretrained(tmp_path)
    file = read_lora(tmp_path)
    assert (file.format, file.ranks, file.alphas) == ("peft", (3,), (6.0,))
    load_lora(tmp_path, bank, "peft")
    plain, before = our_latents("peft"), theirs.transformer
    theirs.transformer = model.merge_and_unload()
    try:
        assert error(plain, their_latents()) <= TOLERANCE
    finally:
        theirs.transformer = before


def test_the_header_says_scale_one_to_diffusers(bank, tmp_path):
    from safetensors import safe_open

    adapter = randomise(bank.add("mine", AdapterConfig(rank=2, alpha=5.0, targets=("to_k",))))
    save_lora(tmp_path / "mine.safetensors", adapter, facts={"run": "x"})
    with safe_open(tmp_path / "mine.safetensors", framework="pt") as file:
        header = file.metadata()
    assert json.loads(header["lora_adapter_metadata"]) == {
        "transformer.r": 2,
        "transformer.lora_alpha": 2,
        "transformer.rank_pattern": {},
        "transformer.alpha_pattern": {},
        "transformer.target_modules": ["layers.0.self_attention.to_k", "layers.1.self_attention.to_k"],
    }
    assert json.loads(header["ernie_adapter_config"]) == {"rank": 2, "alpha": 5.0, "targets": ["to_k"]}
    assert (header["run"], header["format"]) == ("x", "pt")


def randomise_theirs(model):
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
