"""Embeddings: the fixed extractor tells colours and shapes apart; models of transformers are loaded safely and give each picture its own vector."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import ernie_data.embed.stage as embed_stage
from ernie_core.api import ConfigError, DataStageContext, MissingComponent, PluginHost, WeightsError
from ernie_data.category.kmeans import kmeans
from ernie_data.embed.entries import EmbedConfig
from ernie_data.embed.stage import build
from ernie_data.embed.tiny import DIMENSIONS, tiny_embedding
from ernie_data.engine.stage import Item, Refuse
from ernie_data.shapes.profile import profile
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import draw_scene

CONTEXT = DataStageContext(PluginHost.discover().build)
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def item(pixels_HW3) -> Item:
    data = io.BytesIO()
    Image.fromarray(np.asarray(pixels_HW3, np.uint8)).save(data, format="PNG")
    return Item("k", {}, data.getvalue)


def pictures(count: int) -> list[Item]:
    rng = np.random.default_rng(0)
    return [item(rng.integers(0, 256, (20 + n, 40 - n, 3))) for n in range(count)]


def save(kind: str, folder) -> None:
    torch.manual_seed(0)
    if kind == "siglip tower":
        model = SiglipVisionModel(SiglipVisionConfig(**TOWER))
    elif kind == "siglip":
        text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=TOWER))
    elif kind == "dinov2":
        model = Dinov2Model(Dinov2Config(**{name: value for name, value in TOWER.items() if name != "intermediate_size"}))
    else:
        model = DINOv3ViTModel(DINOv3ViTConfig(**TOWER))
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    if kind == "dinov2":
        BitImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    else:
        SiglipImageProcessor(size=size).save_pretrained(folder)


@pytest.mark.parametrize(("kind", "model"), [("siglip tower", "siglip"), ("siglip", "siglip"), ("dinov2", "dino"), ("dinov3", "dino")])
def test_models_give_unit_vectors_that_do_not_depend_on_the_batch(tmp_path, kind, model):
    save(kind, tmp_path)
    found = []
    for batch_size in (1, 3, 7):
        stage = build(EmbedConfig(model=model, path=str(tmp_path), device="cpu", batch_size=batch_size), CONTEXT)
        stage.setup()
        found.append(np.stack([kept.columns["embedding"] for kept in stage.process(pictures(7))]))
        stage.teardown()
    assert found[0].shape == (7, 16)
    assert found[0].dtype == np.float32
    assert np.abs(np.linalg.norm(found[0], axis=1) - 1).max() < 1e-5
    assert np.abs(found[0] - found[1]).max() < 1e-5
    assert np.abs(found[0] - found[2]).max() < 1e-5
    assert np.abs(found[0][0] - found[0][1]).max() > 1e-3, "other pictures have other vectors"


def test_a_tower_alone_and_in_its_checkpoint_agree(tmp_path):
    save("siglip", tmp_path / "both")
    tower = SiglipVisionModel.from_pretrained(tmp_path / "both")
    tower.save_pretrained(tmp_path / "tower")
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "tower")
    vectors = []
    for name in ("both", "tower"):
        stage = build(EmbedConfig(model="siglip", path=str(tmp_path / name), device="cpu"), CONTEXT)
        stage.setup()
        vectors.append(np.stack([kept.columns["embedding"] for kept in stage.process(pictures(3))]))
    assert np.abs(vectors[0] - vectors[1]).max() < 1e-6


def test_a_picture_that_is_no_longer_whole_is_refused_and_the_others_keep_their_vectors(tmp_path):
    save("dinov2", tmp_path)
    stage = build(EmbedConfig(model="dino", path=str(tmp_path), device="cpu"), CONTEXT)
    stage.setup()
    one, two = pictures(2)
    alone = [kept.columns["embedding"] for kept in stage.process([one, two])]
    mixed = list(stage.process([one, Item("broken", {}, lambda: b"no"), two]))
    assert isinstance(mixed[1], Refuse)
    assert np.abs(mixed[2].columns["embedding"] - alone[1]).max() < 1e-5


def test_another_kind_of_model_a_pickle_and_missing_tensors_are_refused(tmp_path):
    save("dinov2", tmp_path / "dino")
    with pytest.raises(WeightsError, match="model_type 'dinov2', expected for \"siglip\" one of siglip"):
        build(EmbedConfig(model="siglip", path=str(tmp_path / "dino"), device="cpu"), CONTEXT).setup()
    (tmp_path / "dino" / "model.safetensors").rename(tmp_path / "dino" / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"dino"):
        build(EmbedConfig(model="dino", path=str(tmp_path / "dino"), device="cpu"), CONTEXT).setup()
    save("siglip tower", tmp_path / "short")
    about = json.loads((tmp_path / "short" / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(json.dumps({**about, "num_hidden_layers": 3}))
    with pytest.raises(WeightsError, match="tensors are missing or have another shape"):
        build(EmbedConfig(model="siglip", path=str(tmp_path / "short"), device="cpu"), CONTEXT).setup()


def test_what_is_neither_a_folder_nor_pinned_is_refused_before_any_work():
    with pytest.raises(ConfigError, match="pin it with `revision`"):
        build(EmbedConfig(model="dino", path="facebook/dinov2-base"), CONTEXT)
    with pytest.raises(ValueError, match="needs a `path`"):
        EmbedConfig(model="dino")
    with pytest.raises(ValueError, match="is fixed and takes no `path`"):
        EmbedConfig(path="x")


def test_a_device_that_is_not_there_is_named(tmp_path):
    save("dinov2", tmp_path)
    with pytest.raises(ConfigError, match="'cuda:77' is not there"):
        build(EmbedConfig(model="dino", path=str(tmp_path), device="cuda:77"), CONTEXT).setup()


def test_without_torch_one_line_names_the_extra(tmp_path, monkeypatch):
    def missing(name):
        raise embed_stage.PackageNotFoundError(name)

    monkeypatch.setattr(embed_stage, "version", missing)
    with pytest.raises(MissingComponent, match=r"need torch, which is not installed: pip install 'ernie-data\[train\]'"):
        build(EmbedConfig(model="dino", path=str(tmp_path)), CONTEXT)
    assert not build(EmbedConfig(), CONTEXT).actor


def test_other_weights_are_other_work(tmp_path):
    codes = []
    for seed in range(2):
        torch.manual_seed(seed)
        Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(tmp_path / "m")
        codes.append(build(EmbedConfig(model="dino", path=str(tmp_path / "m")), CONTEXT).code)
    assert codes[0] != codes[1]


def scenes(count: int) -> tuple[np.ndarray, list[str], list[str]]:
    """Scenes of one object, with its colour and shape."""
    drawn = (draw_scene(profile("bench"), seed=4, split="train", index=index) for index in range(100_000))
    chosen = [scene for scene, _ in zip((s for s in drawn if len(s.objects) == 1 and s.sign is None), range(count))]
    vectors = np.stack([tiny_embedding(Image.fromarray(pixels)) for pixels in render(chosen, 64)])
    triples = [scene.objects[0].triple for scene in chosen]
    return vectors, [t.colour for t in triples], [t.shape for t in triples]


def test_the_fixed_extractor_tells_colour_and_shape():
    vectors, colours, shapes = scenes(300)
    assert vectors.shape == (300, DIMENSIONS)
    near = vectors @ vectors.T - 9 * np.eye(300)
    nearest = near.argmax(axis=1)
    assert np.mean([colours[i] == colours[j] for i, j in enumerate(nearest)]) > 0.97
    assert np.mean([shapes[i] == shapes[j] for i, j in enumerate(nearest)]) > 0.9
    _, leaves, _ = kmeans(vectors, 48, rng=np.random.default_rng(0), iterations=20)
    pure = 0
    for leaf in range(48):
        members = [(colours[i], shapes[i]) for i in np.flatnonzero(leaves == leaf)]
        pure += max((members.count(pair) for pair in members), default=0)
    assert pure / 300 > 0.75


@pytest.mark.parametrize("pixels", [np.zeros((5, 5, 3)), np.full((64, 64, 3), 255), np.full((1, 300, 3), 90)])
def test_the_fixed_extractor_gives_any_picture_a_unit_vector(pixels):
    (kept,) = build(EmbedConfig(), CONTEXT).process([item(pixels)])
    vector = kept.columns["embedding"]
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_the_fixed_extractor_hardly_sees_a_resize():
    pixels = render([draw_scene(profile("bench"), seed=4, split="train", index=0)], 128)[0]
    small = np.asarray(Image.fromarray(pixels).resize((96, 96), Image.Resampling.LANCZOS))
    assert tiny_embedding(Image.fromarray(pixels)) @ tiny_embedding(Image.fromarray(small)) > 0.98
