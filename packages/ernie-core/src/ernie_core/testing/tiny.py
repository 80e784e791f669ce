"""Tiny models with random weights: the real classes at sizes that run in seconds on a CPU. Needs torch, diffusers and transformers.

Sizes are small, but no part is left out or replaced: the pipeline has a tokenizer, a language model with YaRN, a VAE with latent statistics and a scheduler, and
what is zero in a fresh transformer is filled, since otherwise every comparison would be 0 == 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ernie_core import io
from ernie_core.model.config import DiTConfig
from ernie_core.model.dit import ErnieDiT

if TYPE_CHECKING:
    from diffusers import AutoencoderKLFlux2, ErnieImagePipeline, ErnieImageTransformer2DModel
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TEXT_WIDTH = 32
SAMPLE_TEXTS = (
    "a large red circle at the top left",
    "two small blue squares",
    "一只红色的猫坐在桌子上",
    "poster with the title: OPEN 24 HOURS",
)


def tiny_config(**changes: Any) -> DiTConfig:
    """Two layers of width 64 on 16 latent channels; ``changes`` replace fields."""
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_layers": 2,
        "ffn_hidden_size": 96,
        "in_channels": 16,
        "out_channels": 16,
        "text_in_dim": TEXT_WIDTH,
        "rope_axes_dim": (4, 6, 6),
    }
    return DiTConfig(**{**sizes, **changes})


def fill_zeros(transformer: nn.Module, *, seed: int = 0) -> None:
    """Give the two linear maps that start at zero (modulation and output) random values, in ours and in diffusers' model alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for linear, std in ((transformer.adaLN_modulation[-1], 0.08), (transformer.final_linear, 0.1)):
            for parameter in (linear.weight, linear.bias):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def tiny_dit(config: DiTConfig | None = None, *, seed: int = 0) -> ErnieDiT:
    """Our transformer, ready to give outputs that are not zero."""
    model = ErnieDiT(config or tiny_config(), seed=seed).eval()
    fill_zeros(model, seed=seed)
    return model


def tiny_tokenizer(*, model_max_length: int = 48) -> PreTrainedTokenizerFast:
    """Byte-level BPE that begins every prompt with <s>; any text can be encoded, and the words of ``SAMPLE_TEXTS`` are one token each."""
    from transformers import PreTrainedTokenizerFast

    specials = ["<unk>", "<s>", "</s>", "<pad>"]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        io.write_json(file, _byte_level_bpe(specials))
        names = {f"{name}_token": token for name, token in zip(("unk", "bos", "eos", "pad"), specials)}
        return PreTrainedTokenizerFast(tokenizer_file=str(file), model_max_length=model_max_length, **names)


def _byte_level_bpe(specials: Sequence[str]) -> dict[str, Any]:
    """A ``tokenizer.json``: 256 bytes under the printable stand-ins that byte-level BPE uses (Radford et al. 2019), and merges for a few words."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    stand_in = {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    pieces = [*specials, *stand_in.values()]
    merges: dict[tuple[str, str], None] = {}
    for text in SAMPLE_TEXTS:
        for place, word in enumerate(text.split(" ")):
            first, *rest = (stand_in[byte] for byte in (f" {word}" if place else word).encode())
            for following in rest:
                merges[first, following] = None
                first += following
                pieces.append(first)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [specials.index("<s>")], "tokens": ["<s>"]}},
    }
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": token, **flags} for number, token in enumerate(specials)],
        "pre_tokenizer": level,
        "post_processor": template,
        "decoder": level,
        "model": {
            "type": "BPE",
            "vocab": {piece: number for number, piece in enumerate(dict.fromkeys(pieces))},
            "merges": [list(pair) for pair in merges],
        },
    }


def tiny_text_encoder(
    vocab_size: int, *, kind: Literal["mistral3", "ministral3"] = "mistral3", layers: int = 3, seed: int = 2
) -> PreTrainedModel:
    """The language model, alone or with a vision tower as released."""
    from transformers import Ministral3Config, Ministral3Model, Mistral3Config, Mistral3Model, PixtralVisionConfig

    text = Ministral3Config(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 16.0,
            "original_max_position_embeddings": 8,  # prompts of the tests are longer, so the position-dependent query scale is at work
            "max_position_embeddings": 128,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "ministral3":
            model = Ministral3Model(text)
        else:
            vision = PixtralVisionConfig(
                hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
            )
            model = Mistral3Model(Mistral3Config(vision_config=vision, text_config=text, image_token_index=10))
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                nn.init.normal_(parameter, std=0.2)  # the stock 0.02 leaves layers close to doing nothing
    return model.eval()


def tiny_vae(*, latent_channels: int = 4, widths: Sequence[int] = (8, 16), seed: int = 1) -> AutoencoderKLFlux2:
    """4 * ``latent_channels`` packed channels, ``2 ** len(widths)`` pixels per token, and latent statistics that are not 0 and 1.

    Its config says 1e-4, as the released one does, so that a codec which reads eps from there is caught.
    """
    from diffusers import AutoencoderKLFlux2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=tuple(widths),
            layers_per_block=1,
            latent_channels=latent_channels,
            norm_num_groups=4,
            sample_size=32,
            batch_norm_eps=1e-4,
        )
        with torch.no_grad():
            vae.bn.running_mean.normal_(0, 0.2)
            vae.bn.running_var.uniform_(0.01, 1.5)
    return vae.eval()


def tiny_reference(config: DiTConfig | None = None, *, seed: int = 0) -> ErnieImageTransformer2DModel:
    """diffusers' transformer with the weights of ``tiny_dit(config, seed=seed)``."""
    from diffusers import ErnieImageTransformer2DModel

    config = config or tiny_config()
    plain = {name: value for name, value in config.to_diffusers().items() if not name.startswith("_")}
    model = ErnieImageTransformer2DModel(**plain).eval()
    model.load_state_dict(tiny_dit(config, seed=seed).state_dict())
    return model


def tiny_pipeline(
    *, kind: Literal["mistral3", "ministral3"] = "mistral3", shift: float = 3.0, model_max_length: int = 48, seed: int = 0
) -> ErnieImagePipeline:
    """A whole ErnieImagePipeline without prompt enhancer; ``save_pretrained`` makes a pipeline folder of it."""
    from diffusers import ErnieImagePipeline, FlowMatchEulerDiscreteScheduler

    tokenizer = tiny_tokenizer(model_max_length=model_max_length)
    pipeline = ErnieImagePipeline(
        transformer=tiny_reference(seed=seed),
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(len(tokenizer), kind=kind),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
