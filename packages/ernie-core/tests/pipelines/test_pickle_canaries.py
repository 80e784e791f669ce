"""A pickle in any file we read is never run (battery S2). The canary creates a file when it is unpickled; 60 places and readers are tried."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from ernie_core.errors import ErnieError
from ernie_core.model import load_transformer
from ernie_core.sampling.pipeline import load_pipeline
from ernie_core.weights.compare import compare_paths
from ernie_core.weights.diffusers import export_diffusers
from ernie_core.weights.io import open_components


class Canary:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def in_zip(marker: Path, scratch: Path) -> bytes:
    """The format torch.save writes: a zip that holds a pickle."""
    torch.save(Canary(marker), scratch)
    return scratch.read_bytes()


PIPELINE_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
)
# Names under which libraries look for weights or vocabularies, beside the sound files and in their place.
PICKLE_NAMES = (
    "transformer/diffusion_pytorch_model.bin",
    "transformer/diffusion_pytorch_model.pt",
    "vae/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.ckpt",
    "text_encoder/pytorch_model.bin",
    "text_encoder/pytorch_model.bin.index.json",
    "text_encoder/generation_config.json",
    "tokenizer/vocab.pkl",
    "tokenizer/tokenizer.model",
    "tokenizer/special_tokens_map.json",
)
IN_PLACE_OF = {
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
    "tokenizer": "tokenizer/tokenizer.json",
}
CHECKPOINT_FILES = (
    "manifest.json",
    "state.json",
    "transformer.safetensors",
    "ema.transformer.safetensors",
    "encoder.safetensors",
    "ema.encoder.safetensors",
)


def test_the_canary_sings_when_it_is_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Canary(tmp_path / "plain")))  # noqa: S301 - shows that the tests below could fail
    torch.load(tmp_path_file(tmp_path), weights_only=False)
    assert (tmp_path / "plain").is_dir()
    assert (tmp_path / "zipped").is_dir()


def tmp_path_file(tmp_path):
    scratch = tmp_path / "scratch.pt"
    in_zip(tmp_path / "zipped", scratch)
    return scratch


def test_sixty_pickles_in_files_we_read_are_never_run(pipeline_folder, small_run, host, tmp_path, capsys):
    marker, scratch = tmp_path / "it-ran", tmp_path / "scratch"
    payloads = (pickle.dumps(Canary(marker)), in_zip(marker, scratch))
    tried = 0

    def attempt(read, *, must_refuse):
        nonlocal tried
        tried += 1
        try:
            read()
        except ErnieError:
            refused = True
        else:
            refused = False
        assert not marker.exists(), read
        assert refused or not must_refuse, read

    def pipeline_copy():
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        return shutil.copytree(pipeline_folder, tmp_path / "copy")

    for name in PIPELINE_FILES:  # a pickle under the name of a file we read
        for payload in payloads:
            folder = pipeline_copy()
            (folder / name).write_bytes(payload)
            attempt(lambda folder=folder: load_pipeline(folder, host=host), must_refuse=True)
    for name in PICKLE_NAMES:  # beside the sound files: ignored or refused; in their place: refused
        folder = pipeline_copy()
        (folder / name).write_bytes(payloads[0])
        attempt(lambda folder=folder: load_pipeline(folder, host=host), must_refuse=False)
        (folder / IN_PLACE_OF[name.split("/")[0]]).unlink()
        attempt(lambda folder=folder: load_pipeline(folder, host=host), must_refuse=True)
    for suffix in (".bin", ".pt", ".ckpt", ".pkl", ".safetensors"):  # named by the user
        file = tmp_path / f"weights{suffix}"
        file.write_bytes(payloads[1])
        attempt(lambda file=file: open_components(file), must_refuse=True)
        attempt(lambda file=file: compare_paths(file, pipeline_folder), must_refuse=True)
    for number, name in enumerate(CHECKPOINT_FILES):  # in a checkpoint, named directly so that there is nothing to fall back to
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        run = shutil.copytree(small_run, tmp_path / "run")
        checkpoint = next((run / "checkpoints").iterdir())
        (checkpoint / name).write_bytes(payloads[number % 2])
        attempt(lambda folder=checkpoint: load_pipeline(folder, host=host), must_refuse=True)
        attempt(lambda folder=checkpoint: load_transformer(folder), must_refuse=True)
        attempt(
            lambda folder=checkpoint, n=number: export_diffusers(folder, tmp_path / f"out{n}", host=host, transformer_only=True),
            must_refuse=True,
        )
    with capsys.disabled():
        print(f"\nS2: {tried} pickle canaries, none ran")
    assert tried >= 60


@pytest.mark.parametrize(
    "auto_map", ['{"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}', '{"AutoTokenizer": ["evil.Tokenizer", null]}']
)
def test_code_in_a_model_folder_is_never_imported(pipeline_folder, host, tmp_path, auto_map):
    import json

    folder = shutil.copytree(pipeline_folder, tmp_path / "copy")
    part = "tokenizer" if "Tokenizer" in auto_map else "text_encoder"
    config = folder / part / ("tokenizer_config.json" if part == "tokenizer" else "config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": json.loads(auto_map)}))
    (folder / part / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'imported')!r})\n")
    assert load_pipeline(folder, host=host).encoder.encode(["red"]).lens
    assert not (tmp_path / "imported").exists()
