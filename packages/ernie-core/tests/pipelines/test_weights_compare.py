"""Opening and comparing weights of every kind of place."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ernie_core.errors import WeightsError
from ernie_core.weights.compare import compare_paths
from ernie_core.weights.io import facts, open_components, sha256_tensor


@pytest.fixture
def folder(pipeline_folder, tmp_path):
    return shutil.copytree(pipeline_folder, tmp_path / "pipeline")


@pytest.fixture
def weights(folder):
    return folder / "transformer" / "diffusion_pytorch_model.safetensors"


def change(file, edit):
    state = load_file(file)
    edit(state)
    save_file(state, file, metadata={"format": "pt"})


def test_components_of_each_kind_of_place(folder, weights, small_run):
    assert set(open_components(folder)) == {"transformer", "vae", "text_encoder"}
    assert set(open_components(folder / "transformer")) == set(open_components(weights)) == {""}
    assert set(open_components(small_run)) == {"transformer", "encoder"}
    found = facts(open_components(weights)[""])
    expected = load_file(weights)
    assert {name: (fact.dtype, fact.shape) for name, fact in found.items()} == {
        name: ("float32", tuple(value.shape)) for name, value in expected.items()
    }
    assert sum(fact.numel for fact in found.values()) == sum(value.numel() for value in expected.values())
    kinds = {fact.dtype for fact in facts(open_components(small_run)["encoder"]).values()}
    assert kinds == {"float32"}


def shard(folder, pieces=3):
    """Split the transformer's file as diffusers does."""
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    file.unlink()
    names = sorted(state)
    weight_map = {}
    for i in range(pieces):
        part = f"diffusion_pytorch_model-{i + 1:05d}-of-{pieces:05d}.safetensors"
        chosen = names[i::pieces]
        save_file({name: state[name] for name in chosen}, file.with_name(part), metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(chosen, part))
    index = file.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_sharded_weights_equal_those_of_one_file(pipeline_folder, folder):
    index = shard(folder)
    for path in (folder, folder / "transformer", index):
        assert all(part.equal for part in compare_paths(path, pipeline_folder)), path
    (folder / "transformer" / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"diffusion_pytorch_model-00002-of-00003\.safetensors: the shard is missing"):
        compare_paths(folder, pipeline_folder)


def test_a_copy_is_the_same_and_hashes_say_so(pipeline_folder, folder):
    found = compare_paths(folder, pipeline_folder)
    assert [part.component for part in found] == ["text_encoder", "transformer", "vae"]
    for part in found:
        assert part.equal
        assert part.sha256[0] == part.sha256[1] != ""
        assert part.max_abs_difference == 0
        assert part.lines()[0].startswith(f"{part.component}: the same, {part.same} tensors, sha256 {part.sha256[0][:12]}")


def test_a_changed_value_is_found_with_its_size(pipeline_folder, folder, weights):
    def edit(state):
        state["final_linear.bias"][3] += 0.25

    change(weights, edit)
    part = next(p for p in compare_paths(folder, pipeline_folder) if p.component == "transformer")
    assert part.differences == ["final_linear.bias: values differ by up to 0.25 in 1 of 16 places"]
    assert part.sha256[0] != part.sha256[1]
    assert compare_paths(weights, pipeline_folder, tolerance=0.3)[0].equal
    assert not compare_paths(weights, pipeline_folder, tolerance=0.2)[0].equal


def test_missing_extra_misshaped_and_retyped_tensors_are_told_apart(pipeline_folder, weights):
    def edit(state):
        del state["final_linear.bias"]
        state["stray"] = torch.zeros(2)
        state["x_embedder.proj.bias"] = torch.zeros(5)
        state["final_norm.linear.bias"] = state["final_norm.linear.bias"].bfloat16()

    change(weights, edit)
    (part,) = compare_paths(weights, pipeline_folder)
    lines = dict(line.split(": ", 1) for line in part.differences)
    assert lines["final_linear.bias"] == "missing"
    assert lines["stray"] == "not in the other"
    assert lines["x_embedder.proj.bias"] == "shape [5] against [64]"
    assert lines["final_norm.linear.bias"].startswith("bfloat16 against float32, values differ by up to")
    assert len(lines) == 4


def test_at_most_ten_differences_are_listed(pipeline_folder, weights):
    def edit(state):
        for value in state.values():
            value += 1

    change(weights, edit)
    (part,) = compare_paths(weights, pipeline_folder)
    lines = part.lines()
    assert len(part.differences) == 35
    assert len(lines) == 12
    assert lines[0].startswith("transformer: 35 of 35 tensors differ, by up to 1")
    assert lines[-1] == "  ... and 25 more"


def test_non_finite_values_count_as_infinitely_far_unless_both_have_them(folder, weights, pipeline_folder):
    def edit(state):
        state["final_linear.bias"][0] = float("nan")

    change(weights, edit)
    (part,) = compare_paths(weights, pipeline_folder, tolerance=1e9)
    assert part.differences == ["final_linear.bias: values differ by up to inf in 1 of 16 places"]
    assert compare_paths(weights, folder, tolerance=1e-9)[0].equal


def test_a_component_that_one_pipeline_lacks_is_a_difference(folder, pipeline_folder):
    shutil.rmtree(folder / "vae")
    found = {part.component: part for part in compare_paths(folder, pipeline_folder)}
    assert found["vae"].differences == [f"only in {pipeline_folder}"]
    assert found["transformer"].equal


def test_a_run_is_compared_in_what_it_trained(released_run, pipeline_folder):
    (part,) = compare_paths(released_run, pipeline_folder)
    assert part.component == "transformer"
    assert not part.equal  # it learned
    assert part.max_abs_difference > 0
    assert all(p.equal for p in compare_paths(released_run, released_run))


def test_hashes_know_type_and_shape():
    values = torch.arange(6, dtype=torch.float32)
    assert sha256_tensor(values) == sha256_tensor(values.clone())
    assert len({sha256_tensor(v) for v in (values, values.reshape(2, 3), values.double(), values.view(torch.int32))}) == 4
    assert sha256_tensor(torch.zeros(0)) != sha256_tensor(torch.zeros(0, 2))


def test_unreadable_places_are_named(tmp_path, folder, weights, small_run, pipeline_folder):
    def refused(path, message):
        with pytest.raises(WeightsError, match=message):
            open_components(path)

    refused(tmp_path / "nothing", "nothing: no such file or folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"empty: no \.safetensors file; expected weights, a diffusers pipeline, a run or a checkpoint")
    (tmp_path / "empty" / "model.pt").write_bytes(b"x")
    refused(tmp_path / "empty", r"found only model\.pt; pickles can run code and are never read")
    refused(tmp_path / "empty" / "model.pt", r"model\.pt: a pickle can run code and is never read")
    refused(folder / "model_index.json", r"model_index\.json: expected a \.safetensors file or its \.safetensors\.index\.json")
    shutil.copy(weights, weights.with_name("other.safetensors"))
    refused(weights.parent, r"holds several sets of weights \(diffusion_pytorch_model, other\); name one file")
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(weights, r"not a complete safetensors file \(1000 bytes\)")
    with pytest.raises(WeightsError, match=r"nothing to compare: .*out holds encoder, transformer, .*vae-only holds vae"):
        lone = tmp_path / "lone.safetensors"
        save_file({"a": torch.zeros(1)}, lone)
        (tmp_path / "vae-only" / "vae").mkdir(parents=True)
        shutil.copy(lone, tmp_path / "vae-only" / "vae")
        (tmp_path / "vae-only" / "model_index.json").write_text("{}")
        compare_paths(small_run, tmp_path / "vae-only")
