"""Export to diffusers: a trained run becomes a pipeline folder that diffusers loads, or a refusal that says why."""

import json

import numpy as np
import pytest
import torch

from ernie_core.errors import WeightsError
from ernie_core.io import sha256_file
from ernie_core.model import load_transformer
from ernie_core.sampling.pipeline import load_pipeline
from ernie_core.train.checkpoint import open_checkpoint
from ernie_core.weights.compare import compare_paths
from ernie_core.weights.diffusers import export_diffusers

SMALL = {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 48}


@pytest.fixture(scope="module")
def exported(released_run, host, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "pipeline"
    return export_diffusers(released_run, out, host=host).folder


def stored_config(run):
    return open_checkpoint(run).state["config"]


def test_what_was_not_trained_is_copied_file_for_file(exported, pipeline_folder):
    originals = [p.relative_to(pipeline_folder) for p in sorted(pipeline_folder.rglob("*")) if p.is_file()]
    assert len(originals) >= 9
    for file in originals:
        if file.parts[0] != "transformer":
            assert sha256_file(exported / file) == sha256_file(pipeline_folder / file), file
    written = {p.relative_to(exported) for p in exported.rglob("*") if p.is_file()}
    assert {str(p) for p in written - set(originals)} == {"manifest.json"}


def test_the_transformer_is_the_runs_moving_average(exported, released_run, pipeline_folder):
    assert all(part.equal for part in compare_paths(released_run, exported))
    found = {part.component: part.equal for part in compare_paths(exported, pipeline_folder)}
    assert found == {"text_encoder": True, "transformer": False, "vae": True}
    config = json.loads((exported / "transformer" / "config.json").read_text())
    released = json.loads((pipeline_folder / "transformer" / "config.json").read_text())
    assert config == {name: value for name, value in released.items() if name != "_diffusers_version"}


def test_raw_exports_the_trained_weights(released_run, host, tmp_path):
    out = export_diffusers(released_run, tmp_path / "raw", host=host, raw=True, transformer_only=True).folder
    assert compare_paths(released_run, out, raw=True)[0].equal
    assert not compare_paths(released_run, out)[0].equal


def test_diffusers_makes_the_pictures_that_the_run_makes(exported, released_run, host):
    from diffusers import ErnieImagePipeline

    pipeline = ErnieImagePipeline.from_pretrained(exported)
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 6, "guidance_scale": 3.0, "height": 32, "width": 48}
    image = pipeline("two small blue squares", generator=torch.Generator("cpu").manual_seed(5), use_pe=False, **settings).images[0]
    ours = {"seed": 5, "steps": 6, "guidance_scale": 3.0, "size_px": (48, 32)}
    for source in (released_run, exported):
        picture = load_pipeline(source, host=host).sample(["two small blue squares"], **ours)[0]
        assert np.abs(picture.astype(int) - np.asarray(image)).max() <= 1, source


def test_another_shift_is_written_into_the_scheduler(released_run, pipeline_folder, host, train_run, tmp_path):
    plain = stored_config(released_run) | {"flow": {"shift": 4.5}}
    out = export_diffusers(train_run(plain), tmp_path / "shifted", host=host).folder
    found = json.loads((out / "scheduler" / "scheduler_config.json").read_text())
    before = json.loads((pipeline_folder / "scheduler" / "scheduler_config.json").read_text())
    assert found == {**before, "shift": 4.5}
    assert load_pipeline(out, host=host).shift == 4.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_weights_are_split_with_an_index_that_diffusers_reads(released_run, host, tmp_path, dtype):
    from diffusers import ErnieImageTransformer2DModel

    exported = export_diffusers(released_run, tmp_path / "split", host=host, transformer_only=True, dtype=dtype, shard_bytes=100_000)
    shards = [name for name in exported.files if name.endswith(".safetensors")]
    assert len(shards) > 1
    assert "diffusion_pytorch_model.safetensors.index.json" in exported.files
    theirs = ErnieImageTransformer2DModel.from_pretrained(exported.folder, torch_dtype=dtype).state_dict()
    ours = load_transformer(released_run).state_dict()
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.equal(theirs[name], value.to(dtype)), name


def test_nothing_is_ever_overwritten(released_run, host, tmp_path):
    (tmp_path / "used").mkdir()
    with pytest.raises(WeightsError, match="used: already exists, and an export never overwrites"):
        export_diffusers(released_run, tmp_path / "used", host=host)
    assert list((tmp_path / "used").iterdir()) == []


def refusal(run, host, tmp_path):
    with pytest.raises(WeightsError, match="diffusers' ErnieImagePipeline cannot hold this model:") as raised:
        export_diffusers(run, tmp_path / "refused", host=host)
    assert not (tmp_path / "refused").exists()
    assert "The transformer alone can be exported with --transformer-only" in str(raised.value)
    return str(raised.value)


def test_pixels_and_bytes_are_refused_by_name_and_the_transformer_alone_is_not(small_run, host, tmp_path):
    from diffusers import ErnieImageTransformer2DModel

    text = refusal(small_run, host, tmp_path)
    assert "codec `pixel`: the pipeline decodes with the flux2 autoencoder" in text
    assert "encoder `bytes`: the pipeline encodes prompts with ministral3" in text
    assert "the prompt encoder was trained together with the model" in text
    exported = export_diffusers(small_run, tmp_path / "alone", host=host, transformer_only=True)
    assert exported.notes == ()
    model = ErnieImageTransformer2DModel.from_pretrained(exported.folder)
    assert model.config.text_in_dim == 24
    assert compare_paths(small_run, exported.folder)[0].equal


@pytest.mark.parametrize("transformer_only", [False, True])
def test_another_rotary_layout_is_refused_since_diffusers_would_ignore_it(make_run, host, tmp_path, transformer_only):
    run = make_run(model={**SMALL, "rope_layout": "standard"})
    with pytest.raises(WeightsError) as raised:
        export_diffusers(run, tmp_path / "refused", host=host, transformer_only=transformer_only)
    holder = "ErnieImageTransformer2DModel" if transformer_only else "ErnieImagePipeline"
    first, *reasons, advice = str(raised.value).splitlines()
    assert first.endswith(f": diffusers' {holder} cannot hold this model:")
    assert '  rope_layout "standard": ErnieImageTransformer2DModel computes only "ernie"' in reasons
    assert len(reasons) == (1 if transformer_only else 4)  # codec and encoder stay behind when the transformer goes alone
    assert advice.startswith("diffusers would load the transformer alone too, and compute something else.")
    assert not (tmp_path / "refused").exists()


def test_another_block_is_refused_also_for_the_transformer_alone(make_run, host, tmp_path):
    ranges = [{"first": 1, "last": 1, "block": {"use": "toy-linear"}}]
    run = make_run(model={**SMALL, "blocks": ranges})
    with pytest.raises(WeightsError, match="block `toy-linear`: ErnieImageTransformer2DModel has only ernie-shared-adaln"):
        export_diffusers(run, tmp_path / "refused", host=host, transformer_only=True)
    assert not (tmp_path / "refused").exists()


def test_another_eps_is_refused(released_run, host, tmp_path, train_run):
    plain = stored_config(released_run)
    plain["codec"]["eps"] = 1e-4
    assert "codec eps = 0.0001: the pipeline decodes with 1e-05" in refusal(train_run(plain), host, tmp_path)


@pytest.mark.parametrize("name", ["../secrets", "..", "/etc", ""])
def test_components_outside_the_pipeline_are_not_copied(released_run, host, tmp_path, pipeline_folder, train_run, name):
    index = pipeline_folder / "model_index.json"
    whole = index.read_bytes()
    secrets = pipeline_folder.parent / "secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "key").write_text("secret")
    try:
        index.write_text(json.dumps({**json.loads(whole), name: ["transformers", "AutoModel"]}))
        with pytest.raises(WeightsError, match=r"model_index\.json: component '.*': expected the name of a folder beside it"):
            export_diffusers(released_run, tmp_path / "deep" / "out", host=host)
    finally:
        index.write_bytes(whole)
    assert not list(tmp_path.rglob("key"))


def test_a_pipeline_that_lost_a_component_cannot_be_completed(released_run, host, tmp_path, pipeline_folder):
    hidden = pipeline_folder / "tokenizer"
    moved = hidden.rename(pipeline_folder / "hidden")
    try:
        with pytest.raises(WeightsError, match="tokenizer: the pipeline's component `tokenizer` is missing"):
            export_diffusers(released_run, tmp_path / "out", host=host)
    finally:
        moved.rename(hidden)
    assert not (tmp_path / "out").exists()
