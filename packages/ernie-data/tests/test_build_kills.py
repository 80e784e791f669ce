"""K3: ``kill -9`` of real builds, driver and workers, at moments spread over the work; the output tree in the end is byte for byte the undisturbed one."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ernie_data.tables import read_rows

UNDISTURBED = "undisturbed"


def write_pictures(folder: Path, count: int) -> None:
    """Small pictures, every fiftieth damaged, every sixtieth a copy of the one before it."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"{i:06d}.png"
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path, compress_level=1)
        if i % 60 == 1:
            path.write_bytes((folder / f"{i - 1:06d}.png").read_bytes())
        elif i % 50 == 7:
            path.write_bytes(path.read_bytes()[:-30])


RECIPE = """
unit_rows = {unit_rows}
sources = [{{ use = "folder", path = "raw" }}]
index = {{ size_px = [16], multiple_px = 4, allow_empty = true }}
stages = [
  {{ use = "decode" }}, {{ use = "size", size_px = 16 }}, {{ use = "hashes" }}, {{ use = "score", scorer = {{ use = "shapes-quality" }} }},
  {{ use = "duplicates" }}, {{ use = "embed" }}, {{ use = "category", leaves = 12 }},
  {{ use = "select", where = "width > 0", name = "all" }},
]
"""
"""Stages that look at one record, surveys of the whole dataset, and the index: whatever a unit can be."""


def start(config: Path, out: Path, workers: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "ernie_core.cli.main", "data", "build", str(config), "--out", str(out), "--workers", str(workers)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def finish(process: subprocess.Popen) -> None:
    _, err = process.communicate(timeout=3000)
    assert process.returncode == 0, err


def tree(folder: Path) -> dict[str, str]:
    """Every file with its sha256, temporary ones and the released lock included, and every empty folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def workers_of(driver: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == driver and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def lines_of(manifest: Path) -> int:
    return manifest.read_bytes().count(b"\n") if manifest.exists() else 0


def suffer(config: Path, out: Path, *, kills: int, total: int, rng: random.Random) -> dict[str, int]:
    """Build with kills when the manifest has reached drawn lengths, driver and workers in turn; then let it finish."""
    done = {"driver": 0, "worker": 0}
    process = start(config, out, 2)
    for number, length in enumerate(sorted(rng.randrange(total - 4) for _ in range(kills))):
        while lines_of(out / "manifest.jsonl") < length and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.01))
        whom = ("driver", "worker")[number % 2]
        if whom == "driver":
            process.send_signal(signal.SIGKILL)
            done[whom] += process.wait() == -signal.SIGKILL
            process.stderr.close()
            process = start(config, out, rng.choice((1, 2)))
        else:
            while not (victims := workers_of(process.pid)) and process.poll() is None:
                time.sleep(0.001)
            for victim in victims[:1]:
                os.kill(victim, signal.SIGKILL)
                done[whom] += 1
    finish(process)
    return done


def battery(tmp_path: Path, *, pictures: int, unit_rows: int, kills: int) -> None:
    write_pictures(tmp_path / "raw", pictures)
    config = tmp_path / "build.toml"
    config.write_text(RECIPE.format(unit_rows=unit_rows))
    finish(start(config, tmp_path / UNDISTURBED, 2))
    expected = tree(tmp_path / UNDISTURBED)
    about = json.loads((tmp_path / UNDISTURBED / "dataset.json").read_text())
    assert about["records"] == pictures == about["accepted"] + about["rejected"]
    copies = set(range(1, pictures, 60))
    found = {stage["stage"]: stage["rejected"] for stage in about["stages"]}
    assert sum(found["decode"].values()) == len(set(range(7, pictures, 50)) - copies)
    assert found["duplicates"] == {"duplicate": len(copies)}

    total = lines_of(tmp_path / UNDISTURBED / "manifest.jsonl")
    done = suffer(config, tmp_path / "killed", kills=kills, total=total, rng=random.Random(kills))
    assert tree(tmp_path / "killed") == expected
    keys = [row["key"] for unit in about["units"] for row in read_rows(tmp_path / "killed" / "size" / unit[2] / "rows.parquet", ["key"])]
    assert len(keys) == len(set(keys)) == pictures
    print(f"K3: {done['driver']} kills of drivers and {done['worker']} of workers over {pictures} pictures left no trace")
    assert sum(done.values()) >= kills - 1  # the last may come when all is done


@pytest.mark.battery
def test_k3_kills_of_drivers_and_workers_leave_no_trace(tmp_path):
    battery(tmp_path, pictures=160, unit_rows=20, kills=6)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_k3_twenty_kills_over_twenty_thousand_pictures(tmp_path):
    battery(tmp_path, pictures=20_000, unit_rows=256, kills=20)
