"""From a run's pictures to a gate on disk: the teachers are compared once, a kill loses one piece, and another committee's comparison is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from ernie_core.api import ConfigError, DataError, GateContext, RunFolderError, Selection, from_plain
from ernie_core.cli.main import main
from ernie_core.testing.runs import TINY_RUN, merged, write_config
from ernie_core.train.assemble import assemble, build_engine
from ernie_distill.gate_config import FitConfig, LearnedConfig
from ernie_distill.gates import points as points_module
from ernie_distill.gates.fit_command import fit_gate, fit_options, identity_of
from ernie_distill.gates.learned import GateNetwork, feature_count, save_gate
from ernie_distill.gates.points import gather, is_held_out
from ernie_distill.method_config import MtDmdConfig, TeacherConfig
from ernie_distill.telemetry import GATE
from ernie_distill.testing import rows_of

from .distill_makers import from_teacher, options, run

SHADES = {"data": {"use": "memory-shades"}, "stages": [{"size_px": 16, "steps": 6, "batch_size": 8}], "run": {"micro_batch_size": 3}}
RED, BLUE = (200, 40, 40), (40, 40, 200)
TEACHERS = ("generalist", "warm", "cold")
FIT = FitConfig(points=96, held_out=0.25, floor=0.02, hidden=16, steps=150, learning_rate=0.02)
OPTIONS = MtDmdConfig(
    teachers=(TeacherConfig(name="generalist"), TeacherConfig(name="warm", path="w"), TeacherConfig(name="cold", path="c")),
    gate=Selection("learned", LearnedConfig(fit=FIT)),
)


class OneColour:
    """A committee whose teachers see one picture each, whatever they are asked: purple, red, blue."""

    names = TEACHERS

    def __init__(self, codec):
        colours = torch.tensor([(120, 40, 120), RED, BLUE], dtype=torch.float32)[:, :, None, None].expand(-1, -1, 16, 16)
        self.seen_KCHW, self.asked = codec.encode(colours / 127.5 - 1), 0

    def predict(self, k, x_BCHW, sigma_B, text):
        self.asked += len(x_BCHW)
        assert sigma_B.device.type == "cpu"
        assert len(text) == len(x_BCHW) == len(sigma_B)
        return self.seen_KCHW[k].expand_as(x_BCHW).float()


@pytest.fixture
def parts(memory_host):
    config = from_plain(merged(TINY_RUN, SHADES, {"method": {"use": "pretrain"}}), memory_host)
    return assemble(config, memory_host, build_engine(config, memory_host), draws=0, note=lambda *_: None)


def gathered(parts, committee, folder, *, count=96, identity=None):
    return gather(
        parts,
        committee,
        folder,
        count=count,
        sigmas=(0.1, 0.9),
        held_out=0.25,
        styles={"plain": 1.0},
        identity=identity or {"teachers": "abc"},
    )


def test_points_are_the_runs_own_pictures_at_stratified_levels(parts, tmp_path):
    committee = OneColour(parts.codec)
    found = gathered(parts, committee, tmp_path / "points")
    assert len(found) == 256, "a whole piece"
    assert committee.asked == 3 * 256
    assert found.features_PF.shape == (256, feature_count(parts.encoder.width, parts.codec.channels))
    for batch_B in found.sigma_P.reshape(-1, 8):
        assert sorted(((batch_B - 0.1) / 0.8 * 8).long().tolist()) == list(range(8)), "one level in each eighth"
    warm_P = torch.tensor([name == "warm" for name in found.domains])
    errors_PK = found.gram_PKK.diagonal(dim1=1, dim2=2)
    assert (errors_PK[warm_P].argmin(1) == 1).all()
    assert (errors_PK[~warm_P].argmin(1) == 2).all()
    assert 0.1 < float(found.held_P.double().mean()) < 0.5


def test_a_picture_is_held_out_at_all_its_points_or_at_none(parts, tmp_path):
    found = gathered(parts, OneColour(parts.codec), tmp_path / "points")
    keys = [record["key"] for record in json.loads((tmp_path / "points" / "piece-00000" / "records.json").read_bytes())]
    sides = {key: {bool(held) for other, held in zip(keys, found.held_P, strict=True) if other == key} for key in keys}
    assert all(len(side) == 1 for side in sides.values())
    assert {key for key, side in sides.items() if True in side} == {key for key in sides if is_held_out(key, 0.25, seed=0)}


def test_a_kill_loses_a_piece_at_most_and_what_is_there_is_not_asked_again(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(points_module, "PIECE_POINTS", 32)
    whole = gathered(parts, OneColour(parts.codec), tmp_path / "whole")

    class Killed(OneColour):
        def predict(self, *arguments):
            if self.asked > 3 * 70:
                raise KeyboardInterrupt
            return super().predict(*arguments)

    with pytest.raises(KeyboardInterrupt):
        gathered(parts, Killed(parts.codec), tmp_path / "killed")
    assert sorted(path.name for path in (tmp_path / "killed").glob("piece-*")) == ["piece-00000", "piece-00001"]
    again = OneColour(parts.codec)
    resumed = gathered(parts, again, tmp_path / "killed")
    assert again.asked == 3 * 32
    assert all(torch.equal(getattr(whole, name), getattr(resumed, name)) for name in ("gram_PKK", "features_PF", "sigma_P", "held_P"))
    assert not list((tmp_path / "killed").glob(".tmp-*"))
    more = OneColour(parts.codec)
    assert len(gathered(parts, more, tmp_path / "killed", count=128)) == 128
    assert more.asked == 3 * 32


def test_points_of_another_committee_are_refused_with_what_differs(parts, tmp_path):
    gathered(parts, OneColour(parts.codec), tmp_path / "points", count=8)
    with pytest.raises(ConfigError, match=r'(?s)another committee or other data:\n  teachers: there "abc", here "def"\nRemove the folder'):
        gathered(parts, OneColour(parts.codec), tmp_path / "points", count=8, identity={"teachers": "def"})
    (tmp_path / "points" / "identity.json").write_text("{")
    with pytest.raises(ConfigError, match="format: there null, here 1"):
        gathered(parts, OneColour(parts.codec), tmp_path / "points", count=8)
    (tmp_path / "points" / "identity.json").unlink()
    with pytest.raises(ConfigError, match=r"holds pieces but no identity.json"):
        gathered(parts, OneColour(parts.codec), tmp_path / "points", count=8)


def test_points_of_the_same_teachers_in_another_order_are_refused(parts, tmp_path):
    """Their columns are in the committee's order: read by another one, each expert would be fitted with another one's errors."""
    swapped = OneColour(parts.codec)
    swapped.names = ("generalist", "cold", "warm")
    identities = [identity_of(parts, committee, list(committee.names), OPTIONS) for committee in (OneColour(parts.codec), swapped)]
    gathered(parts, OneColour(parts.codec), tmp_path / "points", count=8, identity=identities[0])
    gathered(parts, OneColour(parts.codec), tmp_path / "points", count=8, identity=identities[0])
    with pytest.raises(ConfigError, match="another committee"):
        gathered(parts, swapped, tmp_path / "points", count=8, identity=identities[1])


def test_a_damaged_piece_is_told(parts, tmp_path):
    gathered(parts, OneColour(parts.codec), tmp_path / "points", count=8)
    tensors = tmp_path / "points" / "piece-00000" / "points.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(
        ConfigError, match=r"points.safetensors: \d+ bytes, the manifest says \d+. Remove .*piece-00000, and it is computed again"
    ):
        gathered(parts, OneColour(parts.codec), tmp_path / "points", count=8)


def test_a_fitted_gate_sends_each_domain_to_its_expert_on_pictures_it_has_not_seen(parts, memory_host, tmp_path):
    committee = OneColour(parts.codec)
    fitted = fit_gate(parts, committee, ["0", "1", "2"], OPTIONS, out=tmp_path / "gate", points=tmp_path / "points")
    errors = fitted.errors["held_out"]
    assert errors["gate"] < 0.5 * errors["best_constant_mixture"]
    assert errors["oracle"] <= errors["gate"]
    facts = json.loads((tmp_path / "gate" / "gate.json").read_bytes())
    assert facts["teachers"] == [{"name": name, "sha256": str(k)} for k, name in enumerate(TEACHERS)]
    assert facts["errors"] == fitted.errors
    assert sum(row["points"] for row in facts["load"]) == facts["points"] == 256
    for row in facts["load"]:
        assert max(row["dm"]) == row["dm"][TEACHERS.index(row["domain"])]
    gate = memory_host.build("gates", Selection("learned", LearnedConfig(path=str(tmp_path / "gate"))), GateContext(TEACHERS, ((), (), ())))
    inputs = inputs_of(parts)
    weights_BK = gate(inputs)
    found = [TEACHERS[int(k)] for k in weights_BK.argmax(1)]
    assert found == list(inputs.domains)
    assert torch.allclose(gate(rows_of(inputs, [2])), weights_BK[2:3], rtol=0, atol=1e-6)


def inputs_of(parts):
    from ernie_core.flow.path import interpolate
    from ernie_distill.api import GateInputs

    stage = parts.config.stages[0]
    records = parts.source.fetch(parts.source.batch(10_000, global_batch=8, stage=stage))
    pixels = torch.stack([torch.from_numpy(record.pixels) for record in records]).permute(0, 3, 1, 2).float() / 127.5 - 1
    x0_BCHW = parts.codec.encode(pixels)
    sigma_B = torch.linspace(0.1, 0.8, 8)
    noise_BCHW = torch.randn(x0_BCHW.shape, generator=torch.Generator().manual_seed(0))
    prompts = [record.captions["plain"] for record in records]
    domains = [record.category for record in records]
    return GateInputs(
        "dm", sigma_B, domains, prompts, parts.encoder.encode(prompts), interpolate(x0_BCHW, noise_BCHW, sigma_B), lambda: None
    )


def test_prompts_without_pictures_are_no_data_to_fit_on(parts, tmp_path):
    fetch = parts.source.fetch
    parts.source.fetch = lambda refs: [replace(record, pixels=np.zeros_like(record.pixels)) for record in fetch(refs)]
    with pytest.raises(DataError, match=r"is a prompt without a picture .* method.gate.fit.data"):
        gathered(parts, OneColour(parts.codec), tmp_path / "points", count=8)


def test_fitting_again_with_other_options_asks_no_teacher(parts, tmp_path):
    fit_gate(parts, OneColour(parts.codec), ["0", "1", "2"], OPTIONS, out=tmp_path / "gate", points=tmp_path / "points")
    again = OneColour(parts.codec)
    other = MtDmdConfig(teachers=OPTIONS.teachers, gate=Selection("learned", LearnedConfig(fit=FitConfig(points=96, floor=0.5, steps=20))))
    fitted = fit_gate(parts, again, ["0", "1", "2"], other, out=tmp_path / "other", points=tmp_path / "points")
    assert again.asked == 0
    assert fitted.network.floor == 0.5
    with pytest.raises(ConfigError, match="teachers: there"):
        fit_gate(parts, again, ["0", "1", "3"], other, out=tmp_path / "third", points=tmp_path / "points")


def test_fit_options_are_those_of_the_learned_gate_or_the_defaults():
    assert fit_options(OPTIONS) is FIT
    assert fit_options(MtDmdConfig()) == FitConfig()


# ---- the command ----


def distilling(made, *changes):
    teachers = [
        {"name": "generalist"},
        {"name": "whole", "path": str(made["whole"]), "domains": ["warm"]},
        {"name": "adapter", "path": str(made["adapter"]), "domains": ["cold"]},
        {"name": "mean", "blend": {"adapter": 0.5}},
    ]
    gate = {"use": "learned", "fit": {"points": 32, "steps": 20, "hidden": 8, "held_out": 0.4}}
    return from_teacher(made["base"], {"method": options(teachers=teachers, gate=gate)}, *changes)


def test_the_command_fits_a_gate_that_a_run_can_use(made, memory_host, tmp_path, capsys):
    config = write_config(tmp_path / "run.toml", distilling(made))
    assert main(["distill", "gates", "fit", str(config), "--out", str(tmp_path / "gate")]) == 0
    told = capsys.readouterr()
    assert "held out: gate" in told.out
    assert f'gate = {{ use = "learned", path = "{tmp_path / "gate"}" }}' in told.out
    facts = json.loads((tmp_path / "gate" / "gate.json").read_bytes())
    assert [teacher["name"] for teacher in facts["teachers"]] == ["generalist", "whole", "adapter", "mean"]
    assert len({teacher["sha256"] for teacher in facts["teachers"]}) == 4
    assert facts["errors"]["train"]["gate"] <= facts["errors"]["train"]["best_constant_mixture"] * (1 + 1e-6)
    assert facts["errors"]["train"]["oracle"] < facts["errors"]["train"]["best_single_teacher"]
    assert {row["domain"] for row in facts["load"]} == {"warm", "cold", ""}
    assert (tmp_path / "gate.points" / "piece-00000").is_dir()
    use = {"method": {"gate": {"use": "learned", "path": str(tmp_path / "gate")}}}
    finished = run(distilling(made, use), tmp_path / "run", memory_host)
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    loads = [
        [row[GATE.format("dm", name)] for name in ("generalist", "whole", "adapter", "mean")]
        for row in rows
        if GATE.format("dm", "mean") in row
    ]
    assert loads
    assert all(sum(load) == pytest.approx(1, abs=1e-5) for load in loads)
    teachers = distilling(made)["method"]["teachers"]
    teachers[3] = {"name": "mean", "blend": {"adapter": 0.25}}
    with pytest.raises(ConfigError, match="was fitted to other weights than mean has now"):
        run(distilling(made, use, {"method": {"teachers": teachers}}), tmp_path / "other", memory_host)
    assert main(["distill", "gates", "fit", str(config), "--out", str(tmp_path / "gate")]) == 2
    assert "already exists" in capsys.readouterr().err


def test_a_run_on_prompts_alone_fits_its_gate_on_pictures_of_another_source(made, memory_host, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    lines = [
        json.dumps({"prompt": f"{word} {n}", "domain": domain}) for n in range(8) for word, domain in (("red", "warm"), ("blue", "cold"))
    ]
    prompts.write_text("\n".join(lines) + "\n")
    tables = distilling(made, {"data": {"use": "prompts", "path": str(prompts)}})
    config = write_config(tmp_path / "run.toml", tables)
    assert main(["distill", "gates", "fit", str(config), "--out", str(tmp_path / "gate")]) == 2
    assert "method.gate.fit.data" in capsys.readouterr().err
    tables["method"]["gate"]["fit"]["data"] = {"use": "memory-shades"}
    config = write_config(tmp_path / "run.toml", tables)
    assert main(["distill", "gates", "fit", str(config), "--out", str(tmp_path / "gate")]) == 0
    identity = json.loads((tmp_path / "gate.points" / "identity.json").read_bytes())
    assert identity["data"]["use"] == "memory-shades"
    assert {row["domain"] for row in json.loads((tmp_path / "gate" / "gate.json").read_bytes())["load"]} == {"warm", "cold"}


def test_a_run_goes_on_only_with_the_gate_that_it_began_with(made, memory_host, tmp_path):
    """Its config names a folder, in which another fit may lie by then."""

    def method(**gate):
        config = from_plain(distilling(made, {"method": {"gate": gate or {"use": "learned", "path": str(tmp_path / "gate")}}}), memory_host)
        return assemble(config, memory_host, build_engine(config, memory_host), draws=0, note=lambda *_: None).method

    hashes = method(use="constant").committee.hashes()

    def lay(seed):
        network = GateNetwork(feature_count(32, 48), torch.full((4,), 0.25), hidden=4, floor=0.1, seed=seed)
        names = ("generalist", "whole", "adapter", "mean")
        told = [{"name": name, "sha256": digest} for name, digest in zip(names, hashes, strict=True)]
        facts = {"teachers": told, "text_width": 32, "channels": 48, "guidance": "as-match"}
        save_gate(tmp_path / "gate", network, {**facts, "errors": {"train": {"gate": 1.0}, "held_out": None}})

    lay(seed=1)
    began = method().state_dict()
    method().load_state_dict(began)
    shutil.rmtree(tmp_path / "gate")
    lay(seed=2)
    with pytest.raises(RunFolderError, match=r"gate `learned` is another one than the run began with"):
        method().load_state_dict(began)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": {"use": "pretrain"}}, 'expected a config with [method] use = "mt-dmd", found "pretrain"'),
        ({"method": {"teachers": [{"name": "generalist"}]}}, "a gate chooses among teachers, and method.teachers has one"),
    ],
)
def test_the_command_says_what_it_cannot_do(made, memory_host, tmp_path, capsys, change, message):
    config = write_config(tmp_path / "run.toml", distilling(made, change))
    assert main(["distill", "gates", "fit", str(config), "--out", str(tmp_path / "gate")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "gate").exists()


def test_a_teachers_hash_is_of_all_that_decides_what_it_predicts(made, memory_host):
    def hashes(*changes):
        config = from_plain(distilling(made, {"method": {"gate": {"use": "constant"}}}, *changes), memory_host)
        method = assemble(config, memory_host, build_engine(config, memory_host), draws=0, note=lambda *_: None).method
        return method.committee.hashes()

    before = hashes()
    teachers = distilling(made)["method"]["teachers"]
    other = [*teachers[:3], {"name": "mean", "blend": {"adapter": 0.6}}]
    after = hashes({"method": {"teachers": other}})
    assert before[:3] == after[:3]
    assert before[3] != after[3]
    assert hashes({"method": {"teachers": [teachers[0], {"name": "whole", "path": str(made["adapter"])}]}})[1] == before[2]
