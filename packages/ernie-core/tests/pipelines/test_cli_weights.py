"""``ernie weights`` from the command line inwards."""

import json

import pytest

from ernie_core.cli.main import main
from ernie_core.weights.io import facts, open_components


@pytest.fixture
def ernie(host, capsys, monkeypatch):
    monkeypatch.setenv("ERNIE_DISABLE_PLUGINS", "data")

    def run(*arguments):
        code = main([str(a) for a in arguments])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return run


def test_inspect_counts_what_is_there(ernie, pipeline_folder, small_run):
    code, stdout, _ = ernie("weights", "inspect", pipeline_folder, "--json")
    assert code == 0
    summary = json.loads(stdout)
    assert set(summary) == {"transformer", "vae", "text_encoder"}
    tensors = facts(open_components(pipeline_folder)["transformer"])
    assert summary["transformer"]["parameters"] == sum(t.numel for t in tensors.values())
    assert summary["transformer"]["tensors"] == len(tensors)
    assert summary["transformer"]["dtypes"] == ["float32"]
    code, stdout, _ = ernie("weights", "inspect", small_run, "--tensors")
    assert code == 0
    assert "transformer: " in stdout
    assert "  final_linear.weight float32 [48, 32]" in stdout


def test_verify_says_what_differs_by_its_exit_code(ernie, pipeline_folder, released_run):
    code, stdout, _ = ernie("weights", "verify", pipeline_folder, "--against", pipeline_folder)
    assert code == 0
    assert "transformer: the same, 35 tensors, sha256" in stdout
    code, stdout, _ = ernie("weights", "verify", released_run, "--against", pipeline_folder)
    assert code == 1
    assert "tensors differ, by up to" in stdout
    code, stdout, _ = ernie("weights", "verify", released_run, "--against", pipeline_folder, "--json")
    assert code == 1
    report = json.loads(stdout)
    assert report["equal"] is False
    assert len(report["components"]["transformer"]["differences"]) <= 10
    assert report["components"]["transformer"]["different"] > 10


def test_export_writes_a_folder_that_ernie_sample_reads(ernie, released_run, tmp_path):
    code, stdout, _ = ernie("weights", "export", released_run, tmp_path / "out", "--format", "diffusers")
    assert code == 0
    assert stdout.startswith(f"{tmp_path / 'out'}: ")
    arguments = ["--prompt", "red", "--size", "16x16", "--steps", 1, "--out", tmp_path / "picture.png"]
    assert ernie("sample", "--checkpoint", tmp_path / "out", *arguments)[0] == 0
    code, _, stderr = ernie("weights", "export", released_run, tmp_path / "out", "--format", "diffusers")
    assert code == 2
    assert "already exists, and an export never overwrites" in stderr


def test_a_refused_export_names_every_reason(ernie, small_run, tmp_path):
    code, _, stderr = ernie("weights", "export", small_run, tmp_path / "out", "--format", "diffusers")
    assert code == 2
    assert "codec `pixel`" in stderr
    assert "encoder `bytes`" in stderr
    assert "--transformer-only" in stderr
    code, stdout, _ = ernie("weights", "export", small_run, tmp_path / "out", "--format", "diffusers", "--transformer-only", "--json")
    assert code == 0
    assert sorted(json.loads(stdout)["files"]) == ["config.json", "diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "/nowhere"], "/nowhere: no such file or folder"),
        (["verify", "/nowhere", "--against", "/nowhere"], "/nowhere: no such file or folder"),
        (["export", "a", "b", "--format", "comfyui"], "invalid choice: 'comfyui'"),
        (["export", "a", "b"], "--format"),
        (["bake"], "invalid choice: 'bake'"),
    ],
)
def test_wrong_input_is_exit_code_two_without_a_traceback(ernie, arguments, message):
    code, _, stderr = ernie("weights", *arguments)
    assert code == 2
    assert message in stderr
    assert "Traceback" not in stderr
