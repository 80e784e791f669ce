"""The method: resumed bitwise in either turn, gradients only where they belong, every way of asking the teachers, and what is refused."""

import json

import pytest
import torch
from safetensors import safe_open

from ernie_core.api import ConfigError, DataError, Metrics, PluginHost, WeightsError, from_plain
from ernie_core.cli.main import main
from ernie_core.rng import Rng
from ernie_core.testing.resume import ResumeContract
from ernie_core.testing.runs import TINY_RUN, logged, merged
from ernie_core.train.checkpoint import open_checkpoint
from ernie_distill.readings import add_looks
from ernie_distill.turns import FAKE, STUDENT, Turns

from .distill_makers import ADAPTER, DATA, SHORT, assembled, committee, from_teacher, one_batch, options, run

# ---- R1 ----


class OnPrompts(ResumeContract):
    entry = "mt-dmd"
    tables = DATA
    steps = 6
    options = {"adapter": ADAPTER, **SHORT}

    @pytest.fixture(autouse=True)
    def _memory(self, memory_host: PluginHost) -> None:
        self.memory_host = memory_host

    def host(self) -> PluginHost:
        return self.memory_host


class TestAdapter(OnPrompts):
    pass


class TestAllWeights(OnPrompts):
    options = {**OnPrompts.options, "adapter": False, "coupled": True, "normaliser": "shared-cfg"}
    test_micro_batches_give_the_same_gradients_as_one_batch = None
    test_a_refused_step_changes_nothing_but_the_counters = None


class TestReusedTrajectory(OnPrompts):
    options = {**OnPrompts.options, "reuse_trajectory": True}
    test_micro_batches_give_the_same_gradients_as_one_batch = None


class TestRenoised(OnPrompts):
    options = {
        **OnPrompts.options,
        "rollout": "renoise",
        "real_score": {"decay_steps": 3},
        "match": {"beta_start": [4, 1.5], "beta_decay_steps": 3},
    }
    test_micro_batches_give_the_same_gradients_as_one_batch = None
    test_a_refused_step_changes_nothing_but_the_counters = None


# ---- turns ----


def test_a_period_is_five_turns_of_the_fake_score_and_one_of_the_student():
    turns = Turns(fake_steps=5, warmup_steps=7)
    names = [turns.at(step).name for step in range(7 + 12)]
    assert names == [FAKE] * 7 + ([FAKE] * 5 + [STUDENT]) * 2
    assert [turns.student_updates(step) for step in (0, 7, 12, 13, 18, 19)] == [0, 0, 0, 1, 1, 2]
    assert all(turns.student_updates(step) == names[:step].count(STUDENT) for step in range(len(names)))


def test_the_student_does_not_change_within_a_period():
    turns = Turns(fake_steps=2, warmup_steps=4)
    for step in range(1, 40):
        one_more = turns.period_of(step) - turns.period_of(step - 1)
        assert one_more == (turns.at(step - 1).name == STUDENT or step in (3, 4)), (
            "after each turn of the student, and where the warm-up is cut"
        )
        assert turns.period_of(step) <= step


@pytest.mark.parametrize("warmup_steps", [0, 1, 5, 6, 7, 100])
def test_periods_are_numbered_without_gaps(warmup_steps):
    turns = Turns(fake_steps=5, warmup_steps=warmup_steps)
    numbers = [turns.period_of(step) for step in range(400)]
    assert sorted(set(numbers)) == list(range(numbers[-1] + 1)), "no prompts are passed over"
    assert max(numbers.count(number) for number in set(numbers)) <= turns.period


# ---- T10: who gets gradients ----


@pytest.mark.parametrize("adapter", [ADAPTER, False])
@pytest.mark.parametrize("role", [FAKE, STUDENT])
def test_gradients_reach_the_one_that_learns_and_nobody_else(made, memory_host, adapter, role):
    tables = from_teacher(made["base"], {"method": options(adapter=adapter, teachers=committee(made, "adapter", "whole"))})
    method, parts, config = assembled(tables, memory_host)
    networks = {network.name: network.module for network in method.networks()}
    parts.engine.prepare(method.networks(), {"default": config.optimizer}, ops=parts.ops, compute=parts.compute)
    batch, rng = one_batch(parts, config)
    turn = method.turn(0 if role == FAKE else 3)
    assert turn.trains == (role,)
    with parts.engine.micro_step(turn, last=True):
        loss, _ = method.loss(batch, turn, rng)
        assert loss.requires_grad
        loss.backward()
    assert "teacher-adapter" in networks
    assert "teacher-whole" in networks
    for name, module in networks.items():
        has = {n for n, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        if name == role:
            assert has, f"{name} learns and has no gradient"
        else:
            assert not any(p.grad is not None for p in module.parameters()), f"{name} has a gradient in the turn of {role}"


def test_at_the_start_teacher_and_fake_score_agree_and_only_guidance_moves_the_student(made, memory_host):
    tables = from_teacher(made["base"], {"method": options(guidance={"weight": 0.0})})
    method, parts, config = assembled(tables, memory_host)
    batch, rng = one_batch(parts, config)
    loss, metrics = method.loss(batch, method.turn(3), rng)
    assert float(loss) == 0.0, "fake score and teacher are the same weights, so matching is 0 to the bit"
    assert metrics.means()["distill/match_norm"] == 0.0
    guided, parts, config = assembled(from_teacher(made["base"], {"method": options()}), memory_host)
    _, metrics = guided.loss(batch, guided.turn(3), rng)
    assert metrics.means()["distill/match_norm"] == 0.0
    assert metrics.means()["distill/guidance_norm"] > 0


@pytest.mark.parametrize("role", [FAKE, STUDENT])
def test_recomputed_activations_meet_the_adapter_that_learns(made, memory_host, role):
    """Between the student's forward and backward passes other adapters take its place on the base."""
    found = []
    for kind in ("none", "full", "selective"):
        table = options(teachers=committee(made, "adapter"), reward={"scorer": {"use": "memory-brightness"}})
        tables = from_teacher(made["base"], {"method": table, "precision": {"compute": "bfloat16"}, "model": {"checkpointing": kind}})
        method, parts, config = assembled(tables, memory_host)
        parts.engine.prepare(method.networks(), {"default": config.optimizer}, ops=parts.ops, compute=parts.compute)
        batch, rng = one_batch(parts, config)
        turn = method.turn(0 if role == FAKE else 3)
        with parts.engine.micro_step(turn, last=True):
            loss, _ = method.loss(batch, turn, rng)
            parts.engine.backward(loss)
        found.append(parts.engine.step(turn, learning_rate_factor=0.0, refuse_above={}).grad_norms[role])
    assert found[0] > 0
    assert found == pytest.approx([found[0]] * 3, rel=1e-3)


# ---- the rollout ----


@pytest.mark.parametrize("precision", [{}, {"compute": "bfloat16"}, {"compute": "bfloat16", "latent_dtype": "float32"}])
def test_the_student_is_trained_where_the_pipeline_will_ask_it(made, memory_host, precision):
    """States of the rollout are those of ``ernie sample`` with the same noise, to the bit; the last clean sample is its picture, up to the state's rounding."""
    from ernie_core.sampling.text_to_image import Pipeline

    tables = from_teacher(made["base"], {"method": options(), "flow": {"shift": 4.0}, "precision": precision})
    method, parts, config = assembled(tables, memory_host)
    parts.engine.prepare(method.networks(), {"default": config.optimizer}, ops=parts.ops, compute=parts.compute)
    batch, rng = one_batch(parts, config)
    trajectory = method._roll_all(batch, method._start(batch, rng), rng)
    pipeline = Pipeline(method._roles.base, parts.codec, parts.encoder, parts.shift, latent_dtype=config.precision.latent_dtype)
    seen = []
    with method._roles.borrowed(STUDENT):
        latents = pipeline.sample_latents(
            (batch.text, None),
            noise_BCHW=method._start(batch, rng).to(parts.compute),
            steps=3,
            guidance_scale=1.0,
            on_step=lambda i, s, x: seen.append(x),
        )
    assert all(torch.equal(a, b) for a, b in zip(trajectory.states[1:], seen))
    assert {state.dtype for state in trajectory.states} == {latents.dtype}
    rounding = 1e-6 if latents.dtype == torch.float32 and not precision else 2**-7
    torch.testing.assert_close(trajectory.samples[-1], latents.float(), atol=rounding, rtol=rounding)


def test_reused_trajectories_give_the_same_samples_as_rollouts_of_their_own(made, memory_host):
    method, parts, config = assembled(from_teacher(made["base"], {"method": options(reuse_trajectory=True)}), memory_host)
    batch, rng = one_batch(parts, config, step=1)
    whole = method._reused(batch, rng)
    assert method._reused(batch, Rng(config.run.seed).step(3)) is whole, "steps 1 to 3 are one period"
    start = method._start(batch, rng)
    with method._roles.borrowed(STUDENT) as network:
        for step in range(3):
            assert torch.equal(method._rollout.state(method._student(network, batch), start, step), whole.states[step])
    method.load_state_dict({})
    assert not method._trajectories, "a rollback has put another student in its place"
    assert torch.equal(method._reused(batch, rng).samples[-1], whole.samples[-1]), "made anew it is the same"
    method.after_step(method.turn(3), 3)
    assert not method._trajectories, "the student has moved"


# ---- what is watched ----


def test_saturation_and_diversity_are_the_same_in_any_micro_batches(made, memory_host):
    """Those of large models are of one picture, and diversity is watched all the same."""
    found = []
    for sizes in ([4], [1, 1, 1, 1]):
        method, parts, config = assembled(from_teacher(made["base"], {"method": options(rollout="renoise")}), memory_host)
        metrics, first = Metrics(), 0
        for size in sizes:
            batch, rng = one_batch(parts, config, rows=range(first, first + size))
            metrics.merge(method.validate(batch, rng))
            first += size
        found.append({name: metrics.means()[f"distill/{name}"] for name in ("saturation", "diversity", "student_spread", "teacher_std")})
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_spread_is_the_deviation_over_noises_of_one_prompt():
    draw = torch.Generator().manual_seed(0)
    pictures = 3 + torch.arange(4.0)[:, None, None, None] + 0.5 * torch.randn(2, 4, 3, 40, 40, generator=draw)
    metrics = Metrics()
    add_looks(metrics, "it", *pictures)
    add_looks(metrics, "same", pictures[0], pictures[0])
    means = metrics.means()
    assert means["it_spread"] == pytest.approx(0.5, rel=0.02), "prompts that differ are no diversity"
    assert means["it_std"] == pytest.approx(0.5, rel=0.02)
    assert means["same_spread"] == 0


# ---- what is refused ----


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teachers": []}, ["found none", "generalist"]),
        ({"teachers": [{"name": "text", "path": "x"}]}, ["`text`, is the generalist", "neither path nor blend"]),
        ({"teachers": [{"name": "a"}, {"name": "b"}]}, ["`b` has no path"]),
        ({"teachers": [{"name": "a"}, {"name": "a", "path": "x"}]}, ["several are called `a`"]),
        ({"teachers": [{"name": "a"}, {"name": "b", "path": "x", "blend": {"a": 1}}]}, ["exclude each other"]),
        ({"teachers": [{"name": "a"}, {"name": "b", "blend": {"c": 1}}]}, ["blends `c`", "there is none"]),
        ({"guidance": {"scale": 1.0}}, ["scale"]),
        ({"guidance": {"low": 0.8, "high": 0.2}}, ["below the second"]),
        ({"guidance": {"weight": 0.0}, "normaliser": "shared-cfg"}, ["guidance.weight above 0"]),
        ({"guidance": {"weight": 0.0}, "coupled": True}, ["guidance.weight above 0"]),
        ({"guidance": {"low": 0.1}, "coupled": True}, ["noise levels of `match`", "remove guidance.low"]),
        ({"adapter": False, "real_score": {}}, ["needs an adapter"]),
        ({"steps": 0}, ["steps"]),
    ],
)
def test_options_that_contradict_each_other_are_refused(memory_host, change, words):
    with pytest.raises(ConfigError) as refused:
        from_plain(merged(TINY_RUN, DATA, {"method": options(**change)}), memory_host)
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_teachers_that_do_not_belong_are_refused(made, memory_host, tmp_path):
    other = run(
        merged(TINY_RUN, DATA, {"run": {"steps": 1}, "samples": {"every_steps": 0}, "model": {"num_layers": 2}}),
        tmp_path / "deep",
        memory_host,
    )
    foreign = run(
        merged(TINY_RUN, DATA, {"run": {"steps": 4, "seed": 3}, "samples": {"every_steps": 0}, "method": options()}),
        tmp_path / "foreign",
        memory_host,
    )
    for path, kind, words in (
        (other, ConfigError, ["different architectures", "num_layers"]),
        (foreign, WeightsError, ["trained on other weights"]),
        (tmp_path / "nothing", WeightsError, ["nothing"]),
    ):
        table = options(teachers=[{"name": "generalist"}, {"name": "odd", "path": str(path)}])
        with pytest.raises(kind) as refused:
            assembled(from_teacher(made["base"], {"method": table}), memory_host)
        assert all(word in str(refused.value) for word in words), str(refused.value)


def test_teachers_with_another_codec_or_encoder_are_refused_before_anything_is_built(made, memory_host):
    """The encoder of the teachers is 32 wide and their codec cuts patches of 4."""
    for table, other in (("codec", {"use": "pixel", "patch": 8}), ("encoder", {"use": "bytes", "width": 16, "byte_width": 16})):
        config = from_plain(from_teacher(made["base"], {"method": options(teachers=committee(made, "adapter")), table: other}), memory_host)
        problems = [problem for problem in memory_host.check_config(config) if "method.teachers (adapter)" in problem.message]
        assert [problem.where for problem in problems] == [table]
        assert f"copy its [{table}]" in problems[0].message


def test_a_range_of_guidance_above_the_last_step_is_refused(made, memory_host):
    with pytest.raises(ConfigError, match="last step is at sigma"):
        assembled(from_teacher(made["base"], {"method": options(guidance={"low": 0.7})}), memory_host)


def test_a_scorer_without_gradient_and_a_leaning_teacher_of_its_own_are_refused(made, memory_host):
    for change, words in (
        ({"reward": {"scorer": {"use": "memory-brightness", "gradient": False}}}, "gives no gradient"),
        ({"real_score": {}, "teachers": committee(made, "whole")}, "network of its own"),
    ):
        with pytest.raises(ConfigError, match=words):
            assembled(from_teacher(made["base"], {"method": options(**change)}), memory_host)


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"use": "memory-gate", "sum": 0.8}, r"objective dm that sum to 0\.8"),
        ({"use": "constant", "guidance": {"generalist": 1.0, "adapter": 0.5}}, r"sum to 1\.5 .* more than guidance_budget = 1"),
    ],
)
def test_weights_that_do_not_sum_stop_the_run_at_its_first_step(made, memory_host, gate, words):
    """Not at the student's first turn: the warm-up of the fake score may take hours."""
    table = options(gate=gate, teachers=committee(made, "adapter"), guidance={"high": 0.9})
    method, parts, config = assembled(from_teacher(made["base"], {"method": table}), memory_host)
    batch, rng = one_batch(parts, config)
    assert method.turn(0).name == FAKE
    with pytest.raises(ConfigError, match=words):
        method.loss(batch, method.turn(0), rng)


def test_guidance_on_the_student_and_other_networks_are_refused(made, memory_host):
    method, _, _ = assembled(from_teacher(made["base"], {"method": options()}), memory_host)
    with pytest.raises(ConfigError, match="sampled without"):
        method.velocity_fn("transformer", ["red"], guidance_scale=4.0)
    with pytest.raises(ConfigError, match="not from `fake`"):
        method.velocity_fn("fake", ["red"], guidance_scale=1.0)


def test_a_record_without_a_prompt_is_refused(made, memory_host):
    _, parts, config = assembled(
        from_teacher(made["base"], {"method": options(), "data": {"use": "memory-pictures", "empty": True}}), memory_host
    )
    with pytest.raises(DataError, match="has no prompt"):
        for step in range(3):
            one_batch(parts, config, step=step)


def test_a_base_that_moves_stops_the_run(made, memory_host):
    method, parts, config = assembled(from_teacher(made["base"], {"method": options(check_base_steps=2)}), memory_host)
    batch, rng = one_batch(parts, config)
    method.loss(batch, method.turn(0), rng)
    method.after_step(method.turn(1), 1)
    with torch.no_grad():
        next(method._roles.base.parameters()).add_(1e-3)
    method.after_step(method.turn(2), 2)
    with pytest.raises(WeightsError, match="shared base"):
        method.after_step(method.turn(3), 3)


# ---- what is seen ----


def test_a_run_says_what_it_does_and_keeps_how_it_is_sampled(made, memory_host, tmp_path):
    lines = []
    found = run(
        from_teacher(made["base"], {"method": options(teachers=committee(made, "adapter"))}), tmp_path / "run", memory_host, lines.append
    )
    said = "\n".join(lines)
    assert "3 steps of euler" in said
    assert "generalist (the base), adapter (adapter)" in said
    assert "gate: hand over" in said
    state = open_checkpoint(found).state
    assert state["sampling"] == {"steps": 3, "guidance_scale": 1.0, "sampler": "euler"}
    assert state["deployed"] == {"transformer": "transformer", "adapter": "student", "encoder": "encoder"}
    assert set(logged(found, "distill/fake_loss")) == {1, 2, 3}, "steps 0 to 2 are the fake score's"
    assert set(logged(found, "distill/match_norm")) == {4}
    assert json.dumps(state["networks"]["teacher-adapter"]["trained"]) == "false"


def test_an_exported_lora_of_a_student_comes_with_how_it_is_sampled(made, memory_host, tmp_path, capsys):
    out = tmp_path / "student.safetensors"
    assert main(["weights", "lora", "export", str(made["adapter"]), str(out), "--format", "diffusers"]) == 0
    told = capsys.readouterr().err
    assert "sample it with num_inference_steps=3, guidance_scale=1 and no others" in told
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["sampling"]) == {"steps": 3, "guidance_scale": 1.0, "sampler": "euler"}
