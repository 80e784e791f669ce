"""S1 and S2: a flipped bit anywhere in the newest checkpoint is found, and the run goes on from the one before; nothing a checkpoint holds is ever run."""

from __future__ import annotations

import os
import pickle
import random
import shutil
from pathlib import Path

import pytest

from ernie_core import io
from ernie_core.config.load import from_plain
from ernie_core.errors import ErnieError, RunFolderError
from ernie_core.testing.mishaps import without_fsync
from ernie_core.testing.resume import one_thread
from ernie_core.testing.runs import TINY_RUN, digest, merged
from ernie_core.train.checkpoint import FOLDER, LATEST, name_of, open_checkpoint
from ernie_core.train.start import train

PLAIN = merged(
    TINY_RUN,
    {
        "data": {"use": "toy-pictures"},
        "model": {"hidden_size": 16, "num_attention_heads": 1, "num_layers": 1, "ffn_hidden_size": 16},
        "encoder": {"use": "bytes", "width": 8, "byte_width": 4},
        "stages": [{"size_px": 16, "steps": 4, "batch_size": 2}],
        "checkpoint": {"every_steps": 2},
        "validation": {"every_steps": 0},
        "samples": {"every_steps": 0},
    },
)
NEWEST, BEFORE = name_of(4), name_of(2)


@pytest.fixture
def run(toy_host, tmp_path) -> Path:
    go_on(tmp_path / "run", toy_host)
    return tmp_path / "run"


def go_on(run: Path, host) -> list[str]:
    """Train to the end; returns the lines for people."""
    said: list[str] = []
    with one_thread(), without_fsync():
        train(from_plain(PLAIN, host), host=host, out=run, report=said.append)
    return said


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_s1_a_flipped_bit_in_any_file_is_found_and_passed_over(run):
    rng = random.Random(1)
    files = sorted((run / FOLDER / NEWEST).iterdir())
    assert {
        "manifest.json",
        "state.json",
        "transformer.safetensors",
        "ema.transformer.safetensors",
        "optimizer.transformer.safetensors",
    } <= {path.name for path in files}
    found = harmless = 0
    for number in range(500):
        path = [*files, run / LATEST][number % (len(files) + 1)]
        good = path.read_bytes()
        # a third in the first bytes, where lengths and headers stand
        bit = rng.randrange(8 * min(len(good), 64)) if number % 3 == 0 else rng.randrange(8 * len(good))
        flip(path, bit)
        checkpoint = open_checkpoint(run)
        if path.name == LATEST:
            assert checkpoint.directory.name in (NEWEST, BEFORE), "a damaged pointer led elsewhere"
            harmless += 1
        else:
            assert checkpoint.directory.name == BEFORE, f"{path.name}, bit {bit}: the damage was not found"
            (note,) = checkpoint.notes
            assert path.name in note
            assert "the checkpoint before it is used" in note
            with pytest.raises(RunFolderError, match="Use another checkpoint of the same run"):
                open_checkpoint(run / FOLDER / NEWEST)  # named directly: an error, not another checkpoint
            found += 1
        path.write_bytes(good)
    assert found + harmless == 500
    print(f"S1: 500 of 500 bit flips: {found} found with fallback to the previous, {harmless} in `latest` ended at a verified checkpoint")


def test_s1_a_run_goes_on_bitwise_from_the_checkpoint_before_and_says_so(run, toy_host, tmp_path):
    expected = digest(run)
    for number, path in enumerate([*sorted((run / FOLDER / NEWEST).iterdir()), run / LATEST]):
        damaged = shutil.copytree(run, tmp_path / f"damaged-{number}")
        flip(damaged / path.relative_to(run), 100 if path.name != LATEST else 5)
        said = go_on(damaged, toy_host)
        if path.name != LATEST:
            assert any(line.startswith("warning: ") and path.name in line and "the checkpoint before it is used" in line for line in said)
            assert "damaged-checkpoint" in (damaged / "ledger.jsonl").read_text()
        assert digest(damaged) == expected


def test_a_missing_and_a_cut_file_are_found(run):
    for damage in (Path.unlink, lambda path: os.truncate(path, path.stat().st_size // 2)):
        for path in sorted((run / FOLDER / NEWEST).iterdir()):
            good = path.read_bytes()
            damage(path)
            assert open_checkpoint(run).directory.name == BEFORE, path.name
            path.write_bytes(good)


def test_without_any_whole_checkpoint_the_error_names_every_one(run):
    for name in (NEWEST, BEFORE):
        flip(run / FOLDER / name / "state.json", 99)
    with pytest.raises(RunFolderError) as caught:
        open_checkpoint(run)
    assert "no checkpoint is whole" in str(caught.value)
    assert NEWEST in str(caught.value)
    assert BEFORE in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_manifest_cannot_reach_outside_its_folder(run):
    folder = run / FOLDER / NEWEST
    manifest = io.read_manifest(folder)
    manifest.pop("sha256")
    manifest["files"]["../../config.toml"] = {"bytes": (run / "config.toml").stat().st_size, "sha256": io.sha256_file(run / "config.toml")}
    (folder / "manifest.json").write_bytes(io._manifest_bytes(manifest))
    assert "`../../config.toml` lies outside the folder" in str(io.verify_folder(folder))


class Canary:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_s2_a_pickle_in_the_place_of_any_file_is_never_run(run, toy_host, tmp_path):
    """Each file of a run, as a bare pickle and as one whose sums were forged to match; opened, loaded and resumed."""
    probe = tmp_path / "probe"
    pickle.loads(pickle.dumps(Canary(probe)))  # noqa: S301 - the canary must be able to sing
    assert probe.exists()
    sung, tried = tmp_path / "sung", 0
    payloads = [pickle.dumps(Canary(sung), protocol=protocol) for protocol in (0, 2, 5)]
    files = sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file() and BEFORE not in path.parts)
    for name in files:
        for payload in payloads:
            for forged in (False, True) if name.parent.name == NEWEST and name.name != "manifest.json" else (False,):
                victim = shutil.copytree(run, tmp_path / "victim")
                (victim / name).write_bytes(payload)
                if forged:
                    folder = victim / FOLDER / NEWEST
                    manifest = io.read_manifest(folder)
                    manifest.pop("sha256")
                    manifest["files"][name.name] = {"bytes": len(payload), "sha256": io.sha256_file(victim / name)}
                    (folder / "manifest.json").write_bytes(io._manifest_bytes(manifest))
                    assert io.verify_folder(folder) is None
                try:
                    checkpoint = open_checkpoint(victim)
                    for held in checkpoint.directory.glob("*.safetensors"):
                        checkpoint.tensors(held.name)
                except ErnieError:
                    pass  # refused with a message, as a file of nonsense should be
                assert not sung.exists(), f"{name} was unpickled"
                shutil.rmtree(victim)
                tried += 1
    for name in ("run.json", "ledger.jsonl", "metrics.jsonl", LATEST, "config.toml", "lock"):
        (run / name).write_bytes(payloads[1])
    go_on(run, toy_host)
    assert not sung.exists()
    print(f"S2: {tried} of {tried} canaries never sang")
    assert tried >= 60
