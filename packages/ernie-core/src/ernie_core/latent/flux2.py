r"""The ``flux2`` codec: the FLUX.2 autoencoder of a released pipeline, with the latent convention ERNIE-Image was trained in.

    picture [B, 3, H, W] -> posterior [B, c, H/8, W/8] -> 2 x 2 packing [B, 4c, H/16, W/16] -> (z - mean) / std,    std = sqrt(var + eps)

mean and var are the autoencoder's 4c running statistics, one per *packed* channel. They are taken in float32 from the file: loaded with a bfloat16
autoencoder they would be rounded. Its batch-norm module itself never runs: in training mode it would move the statistics, and otherwise it would use the eps
of the config file (1e-4) instead of the trained 1e-5.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ernie_core.errors import ConfigError, WeightsError
from ernie_core.latent.entries import Flux2Config
from ernie_core.latent.packing import check_divisible, pack, unpack
from ernie_core.model.fingerprint import sha256_module
from ernie_core.model.load import check_shapes, read_json
from ernie_core.model.tensor_files import TensorFiles
from ernie_core.plugins.hookspecs import CodecContext

if TYPE_CHECKING:
    from diffusers import AutoencoderKLFlux2

VAE_CLASS = "AutoencoderKLFlux2"
STEM = "diffusion_pytorch_model"
PACKING = 2  # the released pipeline packs 2 x 2 places of the autoencoder's grid into one token


class Flux2Codec:
    """Pixels [B, 3, H, W] in [-1, 1] <-> normalised latents [B, C, H/p, W/p], for p = ``pixels_per_token`` (16 as released) and C = ``channels`` (128).

    Latents are float32; the autoencoder runs in ``dtype`` and is frozen.
    """

    def __init__(
        self, vae: AutoencoderKLFlux2, *, mean_C: Tensor, variance_C: Tensor, eps: float, posterior_noise: bool, device: torch.device
    ) -> None:
        self.vae = vae
        self.eps = eps
        self.device = device
        self.posterior_noise = posterior_noise
        self.channels = mean_C.numel()
        self.pixels_per_token = PACKING * 2 ** (len(vae.config.block_out_channels) - 1)
        self.mean_C11 = mean_C.float().reshape(-1, 1, 1).to(device)
        self.std_C11 = torch.sqrt(variance_C.float().reshape(-1, 1, 1) + eps).to(device)

    @torch.no_grad()
    def encode(self, pixels_B3HW: Tensor, *, noise_BCHW: Tensor | None = None) -> Tensor:
        """Normalised latents.

        Args:
            noise_BCHW: standard normal in the shape of the latents: a draw from the posterior. None: its mode.

        Raises:
            DataError: sides that are not multiples of ``pixels_per_token``.
        """
        return self.latents(self.posterior(pixels_B3HW), noise_BCHW=noise_BCHW)

    @torch.no_grad()
    def posterior(self, pixels_B3HW: Tensor) -> Tensor:
        """Mean and standard deviation of the autoencoder's posterior, one after the other: [B, 2c, H/8, W/8] in its type.

        Raises:
            DataError: sides that are not multiples of ``pixels_per_token``.
        """
        check_divisible(*pixels_B3HW.shape[2:], self.pixels_per_token)
        posterior = self.vae.encode(pixels_B3HW.to(self.device, self.vae.dtype)).latent_dist
        return torch.cat([posterior.mean, posterior.std], 1)

    def latents(self, posterior: Tensor, *, noise_BCHW: Tensor | None = None) -> Tensor:
        """What ``encode`` makes of a posterior."""
        mean, std = posterior.to(self.device).float().chunk(2, 1)
        if noise_BCHW is not None:
            mean = mean + std * unpack(noise_BCHW.to(self.device).float(), PACKING)
        return (pack(mean, PACKING) - self.mean_C11) / self.std_C11

    def identity(self) -> str:
        """All that decides about ``posterior``: weights, type and architecture. The latents' own statistics enter after it."""
        architecture = json.dumps({name: value for name, value in sorted(self.vae.config.items()) if not name.startswith("_")}, default=str)
        return f"flux2 1 {self.vae.dtype} {sha256_module(self.vae)} {hashlib.sha256(architecture.encode()).hexdigest()}"

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Pixels, float32, not clamped. Gradients flow to the latents."""
        latents = unpack(latents_BCHW.to(self.device).float() * self.std_C11 + self.mean_C11, PACKING)
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0].float()


def vae_folder(path: str) -> Path:
    """The autoencoder's folder, given it or a pipeline folder.

    Raises:
        WeightsError: neither is there.
    """
    root = Path(path)
    folder = root / "vae" if (root / "vae" / "config.json").is_file() else root
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{root}: found neither config.json nor vae/config.json; expected an {VAE_CLASS} folder or a pipeline folder")
    return folder


def build_flux2(config: Flux2Config, context: CodecContext) -> Flux2Codec:
    """Read the autoencoder from disk.

    Raises:
        WeightsError: missing or damaged files, another class, tensors that do not fit, or statistics that are not usable.
    """
    folder = vae_folder(config.path)
    plain = read_json(folder / "config.json")
    if plain.get("_class_name") != VAE_CLASS:
        raise WeightsError(f"{folder / 'config.json'}: found a {plain.get('_class_name')}, expected an {VAE_CLASS}")
    files = TensorFiles.open(folder, STEM)

    from diffusers import AutoencoderKLFlux2

    try:
        with torch.device("meta"):
            vae = AutoencoderKLFlux2.from_config(plain)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{folder / 'config.json'}: {error}") from error
    if tuple(vae.config.patch_size) != (PACKING, PACKING):
        raise ConfigError(f"{folder / 'config.json'}: patch_size {list(vae.config.patch_size)}, this codec packs {PACKING} x {PACKING}")
    check_shapes(files.shapes(), {name: tuple(t.shape) for name, t in vae.state_dict().items()}, where=files.where)
    state = {name: files.read(name) for name in vae.state_dict()}
    mean_C, variance_C = state["bn.running_mean"], state["bn.running_var"]
    if not (mean_C.isfinite().all() and variance_C.isfinite().all() and bool((variance_C >= 0).all())):
        raise WeightsError(
            f"{files.where}: the latent statistics bn.running_mean and bn.running_var must be finite, and the variance not negative"
        )
    vae.load_state_dict({name: t.to(context.dtype) if t.is_floating_point() else t for name, t in state.items()}, assign=True)
    vae.to(context.device).eval().requires_grad_(False)
    return Flux2Codec(
        vae,
        mean_C=mean_C,
        variance_C=variance_C,
        eps=config.eps,
        posterior_noise=config.posterior == "sample",
        device=context.device,
    )
