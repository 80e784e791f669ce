"""What is asked of whom, and where it moves the student: teachers, gates' weights, noise levels and rewards in the method."""

import pytest
import torch

from ernie_core.api import ConfigError, Part, WeightsError
from ernie_core.model.fingerprint import sha256_module
from ernie_core.rng import Rng
from ernie_core.sampling.guidance import guided_velocity
from ernie_core.sampling.samplers import euler
from ernie_core.sampling.schedule import inference_sigmas
from ernie_distill.region import text_region
from ernie_distill.target import beta_shape, falling_cosine
from ernie_distill.teachers import Committee, Teacher
from ernie_distill.turns import STUDENT

from .distill_makers import DATA, TINY_RUN, assembled, committee, from_teacher, merged, one_batch, options, run


def direction_of(method, parts, config, *, step=3):
    batch, rng = one_batch(parts, config, step=step)
    _, metrics = method.loss(batch, method.turn(step), rng)
    return metrics.means()


def test_experts_are_asked_by_their_weight_and_the_base_stays(made, memory_host):
    method, parts, config = assembled(
        from_teacher(made["base"], {"method": options(teachers=committee(made, "adapter", "whole"))}), memory_host
    )
    before = sha256_module(method._roles.base)
    metrics = direction_of(method, parts, config)
    assert sha256_module(method._roles.base) == before
    loads = {name: metrics[f"gate/dm/{name}"] for name in ("generalist", "adapter", "whole")}
    assert sum(loads.values()) == pytest.approx(1)
    assert loads["whole"] == 0
    assert {name.rpartition("/")[2] for name in metrics if name.startswith("gate/dm/adapter/")} >= {"warm", "cold"}
    assert metrics["distill/match_norm"] > 0, "an expert differs from the fake score, which starts as the generalist"


def test_a_blend_of_adapters_is_the_mean_of_their_parameters(made, memory_host):
    from ernie_core.adapters.algebra import merged as merged_into

    teachers = [*committee(made, "adapter"), {"name": "half", "blend": {"adapter": 0.5}}]
    method, parts, config = assembled(from_teacher(made["base"], {"method": options(teachers=teachers)}), memory_host)
    batch, rng = one_batch(parts, config)
    x, sigma_B = torch.from_numpy(rng.at("x").normal(0, (4, *batch.shape_CHW))), torch.full((4,), 0.6)
    found = method._committee.predict(2, x, sigma_B, batch.text)
    roles = method._roles
    halved = merged_into(roles.base.state_dict(), roles.bank.adapters["teacher-adapter"], strength=0.5)
    roles.base.load_state_dict(halved)
    torch.testing.assert_close(found, method._committee.predict(0, x, sigma_B, batch.text), atol=1e-5, rtol=1e-4)
    assert "teacher-half" not in {network.name for network in method.networks()}, "a blend holds nothing of its own"
    with pytest.raises(ConfigError, match="only adapters can be blended"):
        teachers = [*committee(made, "whole"), {"name": "half", "blend": {"whole": 0.5}}]
        assembled(from_teacher(made["base"], {"method": options(teachers=teachers)}), memory_host)


def test_a_mixture_is_the_weighted_sum_of_its_teachers(made, memory_host):
    method, parts, config = assembled(from_teacher(made["base"], {"method": options(teachers=committee(made, "adapter"))}), memory_host)
    batch, rng = one_batch(parts, config)
    x0 = torch.from_numpy(rng.at("x").normal(0, (4, *batch.shape_CHW)))
    target = method._targets.at(x0, batch, rng, step_sigma=0.9, updates=0)
    for objective in ("dm", "ca"):
        at = target.asked[objective]
        assert torch.allclose(at.weights[:, 1], 1 - at.sigma_B)
    at = target.asked["dm"]
    predictions = [method._committee.predict(k, at.x_BCHW, at.sigma_B, batch.text) for k in (0, 1)]
    assert not torch.allclose(*predictions)
    expected = sum(at.weights[:, k, None, None, None] * predictions[k] for k in (0, 1))
    fake = predictions[0]  # still the base's weights
    torch.testing.assert_close(target.direction.match, expected - fake, atol=1e-6, rtol=1e-5)
    assert bool((target.asked["ca"].sigma_B < 0.9).all()), "guidance works below the step's own level"


def test_half_the_guidance_weight_is_half_the_guidance(made, memory_host):
    """Weights of guidance are strengths: they scale the term, and not the distance that it is normalised by."""
    found = []
    for weight in (1.0, 0.5, 0.0):
        gate = {"use": "constant", "match": {"generalist": 1.0}, "guidance": {"adapter": weight}}
        tables = from_teacher(made["base"], {"method": options(teachers=committee(made, "adapter"), gate=gate)})
        method, parts, config = assembled(tables, memory_host)
        batch, rng = one_batch(parts, config)
        x0 = torch.from_numpy(rng.at("x").normal(0, (4, *batch.shape_CHW)))
        found.append(method._targets.at(x0, batch, rng, step_sigma=0.9, updates=0).direction)
    whole, half, none = found
    torch.testing.assert_close(half.guidance_scale_B, whole.guidance_scale_B)
    torch.testing.assert_close(half.guidance, whole.guidance / 2)
    assert none.guidance.abs().max() == 0
    assert torch.isfinite(none.g).all()


def test_coupled_terms_ask_once_and_agree_with_dmd2(made, memory_host):
    tables = from_teacher(made["base"], {"method": options(coupled=True, normaliser="shared-cfg", teachers=committee(made, "adapter"))})
    method, parts, config = assembled(tables, memory_host)
    batch, rng = one_batch(parts, config)
    x0 = torch.from_numpy(rng.at("x").normal(0, (4, *batch.shape_CHW)))
    target = method._targets.at(x0, batch, rng, step_sigma=0.9, updates=0)
    at, empty = target.asked["dm"], method._matching.frozen_text([""]).rows([0] * 4)
    w = at.weights[:, :, None, None, None]
    cond = sum(w[:, k] * method._committee.predict(k, at.x_BCHW, at.sigma_B, batch.text) for k in (0, 1))
    uncond = sum(w[:, k] * method._committee.predict(k, at.x_BCHW, at.sigma_B, empty) for k in (0, 1))
    fake = method._committee.predict(0, at.x_BCHW, at.sigma_B, batch.text)
    guided = uncond + 4.0 * (cond - uncond)
    scale = (x0 - guided).abs().flatten(1).mean(1) + 1e-6
    torch.testing.assert_close(target.direction.g, (guided - fake) / scale[:, None, None, None], atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_weights_by_place_and_weights_by_sample_may_be_on_different_devices():
    """In coupled terms those of matching come from the CPU, and those of a spatial gate from where its region was found."""
    by_sample, by_place = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.zeros(2, 2, 1, 3, 3, device="cuda")
    by_place[1, 1] = 1
    teachers = [Teacher(name, (), None, {}) for name in ("generalist", "text")]
    assert Committee(teachers, None, dtype=torch.float32).asked(by_sample, by_place) == [(0, [0, 1]), (1, [1])]


def test_the_real_score_leans_towards_the_fake_one_and_comes_back(made, memory_host):
    leaning = options(real_score={"start": 1.0, "decay_steps": 2})
    method, parts, config = assembled(from_teacher(made["base"], {"method": leaning}), memory_host)
    roles, committee_ = method._roles, method._committee
    with torch.no_grad():
        for parameter in roles.bank.adapters["fake"].parameters():
            parameter.add_(0.05)
    batch, rng = one_batch(parts, config)
    x0 = torch.from_numpy(rng.at("x").normal(0, (4, *batch.shape_CHW)))
    norms = [method._targets.at(x0, batch, rng, step_sigma=0.9, updates=n).direction.match.abs().max() for n in (0, 1, 2, 50)]
    assert norms[0] == 0.0, "at 1 the real score is the fake score"
    assert 0 < norms[1] < norms[2]
    assert norms[2] == norms[3], "from decay_steps on it is the pure teacher"
    sigma_B = torch.full((4,), 0.5)
    pure = committee_.predict(0, x0, sigma_B, batch.text)
    assert not torch.equal(pure, committee_.predict(0, x0, sigma_B, batch.text, lean=1.0))
    assert torch.equal(pure, committee_.predict(0, x0, sigma_B, batch.text)), "leaning leaves nothing behind"


def test_validation_looks_at_the_target_that_schedules_end_at(made, memory_host):
    found = []
    for real_score in (None, {"start": 1.0, "decay_steps": 100}):
        method, parts, config = assembled(from_teacher(made["base"], {"method": options(real_score=real_score or False)}), memory_host)
        with torch.no_grad():
            for parameter in method._roles.bank.adapters["fake"].parameters():
                parameter.add_(0.05)
        found.append(method.validate(*one_batch(parts, config)).means())
    assert found[0] == found[1]
    assert found[0]["distill/match_norm"] > 0


def test_guidance_stays_below_the_students_own_level_unless_told_otherwise(made, memory_host):
    highest = []
    for below_step in (True, False):
        method, parts, config = assembled(from_teacher(made["base"], {"method": options(guidance={"below_step": below_step})}), memory_host)
        batch, rng = one_batch(parts, config)
        x0 = torch.from_numpy(rng.at("x").normal(0, (4, *batch.shape_CHW)))
        highest.append(float(method._targets.at(x0, batch, rng, step_sigma=0.3, updates=0).asked["ca"].sigma_B.max()))
    assert highest[0] < 0.3 < highest[1]


def test_the_student_is_judged_by_what_it_takes_for_clean_at_its_step(made, memory_host):
    """The same clean sample as in the rollout, at the step that was drawn, with the number of its updates."""
    method, parts, config = assembled(from_teacher(made["base"], {"method": options()}), memory_host)
    seen, original = [], method._targets.at
    method._targets.at = lambda x0, *rest, **told: seen.append((x0, told)) or original(x0, *rest, **told)
    steps = set()
    for student_turn in range(3, 24, 3):
        batch, rng = one_batch(parts, config, step=student_turn)
        assert method.turn(student_turn).name == STUDENT
        method.loss(batch, method.turn(student_turn), rng)
        x0, told = seen.pop()
        step = rng.at("rollout-step").integer(0, 3)
        steps.add(step)
        trajectory = method._roll_all(batch, method._start(batch, rng), rng)
        torch.testing.assert_close(x0, trajectory.samples[step], atol=1e-6, rtol=0)
        assert told == {"step_sigma": method._rollout.sigmas[step], "updates": student_turn // 3 - 1}
    assert len(steps) > 1, "the step is drawn anew in every turn"


def test_every_noise_is_drawn_for_one_purpose(made, memory_host):
    """Renoising with the rollout's own noise, or both terms and the fake score with one, has the right fixed point in closed form and is wrong all the same."""
    for turn_step in (0, 3):
        method, parts, config = assembled(from_teacher(made["base"], {"method": options(rollout="renoise")}), memory_host)
        batch, rng = one_batch(parts, config, step=turn_step)
        drawn, original = [], method._matching.noise
        method._matching.noise = lambda draws, *rest, original=original, drawn=drawn: drawn.append(draws.key) or original(draws, *rest)
        method._base_sha256 = "checked"  # the look at the gate before the first step draws as a rollout does
        method.loss(batch, method.turn(turn_step), rng)
        assert len(drawn) >= 2
        assert len(set(drawn)) == len(drawn), f"one noise for two purposes in the turn of step {turn_step}"


def test_a_reward_moves_the_student_up_its_slope(made, memory_host):
    reward = {"scorer": {"use": "memory-brightness"}, "weight": 1.0}
    losses = []
    for table in (options(guidance={"weight": 0.0}), options(guidance={"weight": 0.0}, reward=reward)):
        method, parts, config = assembled(from_teacher(made["base"], {"method": table}), memory_host)
        batch, rng = one_batch(parts, config)
        loss, metrics = method.loss(batch, method.turn(3), rng)
        losses.append((float(loss), metrics.means()))
    (before, _), (after, metrics) = losses
    assert after == pytest.approx(before - 4 * metrics["distill/reward"])


def test_a_reward_whose_gradient_is_cut_is_refused_when_it_is_first_asked(made, memory_host):
    reward = {"scorer": {"use": "memory-brightness", "deaf": True}}
    method, parts, config = assembled(from_teacher(made["base"], {"method": options(reward=reward)}), memory_host)
    batch, rng = one_batch(parts, config)
    with pytest.raises(ConfigError, match="scorer `memory-brightness` gives no gradient"):
        method.loss(batch, method.turn(3), rng)


# ---- weights by sample, by place, and few of them ----


def some_samples(parts, config, **at):
    batch, rng = one_batch(parts, config, **at)
    return batch, rng, torch.from_numpy(rng.at("x").normal(0, (len(batch), *batch.shape_CHW)))


def test_teachers_that_are_asked_about_some_samples_only_give_the_dense_sum(made, memory_host):
    experts = [{"name": name, "path": str(made["adapter"]), "domains": [domain]} for name, domain in (("warm", "warm"), ("cold", "cold"))]
    gate = {"use": "domain", "leak": 0.0}
    tables = from_teacher(made["base"], {"method": options(teachers=[{"name": "generalist"}, *experts], gate=gate)})
    method, parts, config = assembled(tables, memory_host)
    batch, rng, x0 = some_samples(parts, config, rows=range(4))
    assert len(set(batch.domains)) > 1
    asked, original = [], method._committee.predict
    method._committee.predict = lambda k, x, *rest, **told: asked.append((k, len(x))) or original(k, x, *rest, **told)
    target = method._targets.at(x0, batch, rng, step_sigma=0.9, updates=0)
    assert sum(n for _, n in asked) == 3 * len(batch), (
        "with the prompt for matching, with and without it for guidance: each sample of one teacher"
    )
    at = target.asked["dm"]
    dense = sum(at.weights[:, k, None, None, None] * original(k, at.x_BCHW, at.sigma_B, batch.text) for k in range(3))
    torch.testing.assert_close(target.direction.match, dense - original(0, at.x_BCHW, at.sigma_B, batch.text), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("active", "above", "expected"), [(3, 0.0, {0, 1, 2}), (2, 0.0, {0, 2}), (1, 0.0, {2}), (3, 0.15, {0, 2})])
def test_the_heaviest_teachers_only_are_asked(made, memory_host, active, above, expected):
    gate = {"use": "constant", "match": {"generalist": 0.3, "adapter": 0.1, "whole": 0.6}}
    table = options(teachers=committee(made, "adapter", "whole"), gate=gate, active_teachers=active, active_above=above)
    method, parts, config = assembled(from_teacher(made["base"], {"method": table}), memory_host)
    batch, rng, x0 = some_samples(parts, config)
    asked, original = set(), method._committee.predict
    method._committee.predict = lambda k, *rest, **told: asked.add(k) or original(k, *rest, **told)
    target = method._targets.at(x0, batch, rng, step_sigma=0.9, updates=0)
    assert asked == expected
    torch.testing.assert_close(target.asked["dm"].weights.sum(1), torch.ones(len(batch)))


@pytest.mark.parametrize("coupled", [False, True])
def test_a_spatial_gate_moves_each_place_by_its_own_teachers(made, memory_host, coupled):
    """The text expert counts where the quotes are drawn: each place is the sum under its own weights, in either objective."""
    experts = [{"name": name, "path": str(made[kind]), "domains": [name]} for name, kind in (("text", "adapter"), ("art", "whole"))]
    more = {"coupled": True, "normaliser": "none"} if coupled else {"normaliser": "none"}
    table = options(teachers=[{"name": "generalist"}, *experts], gate={"use": "spatial"}, **more)
    method, parts, config = assembled(from_teacher(made["base"], {"method": table}), memory_host)
    batch, rng, x0 = some_samples(parts, config)
    prompts = ['a sign "OPEN"', "a dog", 'the words "NO ENTRY" in red', "a cat"]
    batch = type(batch)(**{**vars(batch), "prompts": tuple(prompts), "text": method._matching.encode(prompts), "domains": ("art",) * 4})
    target = method._targets.at(x0, batch, rng, step_sigma=0.9, updates=0)
    at, empty = target.asked["ca"], method._matching.frozen_text([""]).rows([0] * 4)
    assert at.weights.ndim == 5
    assert at.weights[0, 1].max() > at.weights[0, 1].min(), "more at some places than at others"
    assert at.weights[[1, 3], 1].max() == 0, "no quotes, no text expert"
    change = 0
    for k in (0, 1, 2):
        cond, uncond = (method._committee.predict(k, at.x_BCHW, at.sigma_B, text) for text in (batch.text, empty))
        change = change + at.weights[:, k] * (cond - uncond)
    torch.testing.assert_close(target.direction.guidance, 3.0 * change, atol=1e-5, rtol=1e-4)


def test_the_region_is_where_the_picture_changes_with_the_quotes_and_of_each_sample_by_itself(made, memory_host):
    method, parts, config = assembled(from_teacher(made["base"], {"method": options()}), memory_host)
    _, _, x = some_samples(parts, config)
    prompts, sigma_B = ['a sign "OPEN"', "a dog", 'the words "NO" in red', "a cat"], torch.full((4,), 0.6)
    text = method._matching.encode(prompts)

    def region(rows):
        def predict(of, told):
            return method._committee.predict(0, x[rows][of], sigma_B[rows][of], told)

        return text_region(predict, method._matching.frozen_text, [prompts[r] for r in rows], text.rows(rows), x[rows])

    whole = region([0, 1, 2, 3])
    assert whole[[1, 3]].abs().max() == 0
    assert whole[[0, 2]].flatten(1).amax(1).tolist() == pytest.approx([1, 1])
    torch.testing.assert_close(region([2]), whole[2:3], atol=1e-5, rtol=1e-4)


# ---- options that only the method reads ----


def test_the_weight_of_guidance_scales_its_share_of_the_direction(made, memory_host):
    found = {}
    for weight in (0.5, 1.0, 2.0):
        table = options(teachers=committee(made, "adapter"), guidance={"weight": weight})
        method, parts, config = assembled(from_teacher(made["base"], {"method": table}), memory_host)
        batch, rng, x0 = some_samples(parts, config)
        found[weight] = method._targets.at(x0, batch, rng, step_sigma=0.9, updates=0).direction.g
    torch.testing.assert_close(found[2.0] - found[1.0], 2 * (found[1.0] - found[0.5]), atol=1e-4, rtol=1e-4)
    assert (found[2.0] - found[1.0]).abs().max() > 1e-3


@pytest.mark.parametrize(("guidance", "scale"), [({"scale": 3.0}, 3.0), ({"scale": 3.0, "weight": 0.0}, 1.0)])
def test_validation_compares_with_the_generalist_as_the_student_should_be(made, memory_host, guidance, scale):
    """With guidance where the student learns guidance, without it where it does not; at the student's own noise."""
    method, parts, config = assembled(from_teacher(made["base"], {"method": options(guidance=guidance)}), memory_host)
    batch, rng = one_batch(parts, config)
    empty = method._matching.frozen_text([""]) if scale > 1 else None
    with torch.no_grad(), method._roles.bank.using():
        velocity_fn = guided_velocity(method._roles.base, batch.text, empty, scale)
        expected = euler(velocity_fn, method._start(batch, rng), inference_sigmas(4, parts.shift))
    assert torch.equal(method._guided_pictures(batch, rng), expected.float())


@pytest.mark.parametrize(("name", "table"), [("match", {"low": 0.4, "high": 0.6}), ("fake", {}), ("guidance", {"low": 0.1, "high": 0.3})])
def test_noise_levels_are_spread_over_their_range(made, memory_host, name, table):
    """Stratified: of four samples, one in each quarter."""
    changes = {"fake_sigma": [0.2, 0.8]} if name == "fake" else {name: table}
    method, parts, config = assembled(from_teacher(made["base"], {"method": options(**changes)}), memory_host)
    batch, rng, x0 = some_samples(parts, config)
    if name == "fake":
        seen, original = [], method._roles.become
        method._roles.become = lambda role: _Seen(original(role), seen)
        method.loss(batch, method.turn(0), rng)
        sigma_B, low, high = seen[-1], 0.2, 0.8
    else:
        target = method._targets.at(x0, batch, rng, step_sigma=0.9, updates=0)
        sigma_B, (low, high) = target.asked["dm" if name == "match" else "ca"].sigma_B, (table["low"], table["high"])
    quarters = ((sigma_B - low) / (high - low) * 4).floor().int().tolist()
    assert sorted(quarters) == [0, 1, 2, 3]


class _Seen:
    """A transformer whose times are kept."""

    def __init__(self, module, seen):
        self._module, self._seen = module, seen

    def __getattr__(self, name):
        return getattr(self._module, name)

    def __call__(self, x, time_B, *rest):
        self._seen.append(time_B / 1000.0)
        return self._module(x, time_B, *rest)


def test_dmdr_schedules_start_where_told_end_uniform_and_are_half_way_at_half_time():
    assert [falling_cosine(n, 10) for n in (0, 5, 10, 99)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert beta_shape((4.0, 1.5), 10, 0) == (4.0, 1.5)
    assert beta_shape((4.0, 1.5), 10, 5) == pytest.approx((2.5, 1.25))
    assert beta_shape((4.0, 1.5), 10, 10) == (1.0, 1.0)
    assert beta_shape(None, 10, 0) == (1.0, 1.0)


def test_a_period_has_the_same_records_and_the_same_captions_throughout(made, memory_host):
    table = {"method": options(reuse_trajectory=True)}
    method, parts, config = assembled(from_teacher(made["base"], table), memory_host)
    stage = config.stages[0]

    def prompts(step):
        refs = parts.source.batch(method.data_step(step), global_batch=4, stage=stage)
        part = Part(parts.source.fetch(refs), tuple(range(4)), stage)
        return method.prepare(part, Rng(config.run.seed).step(step)).prompts

    periods = [{prompts(step) for step in steps} for steps in ((0,), (1, 2, 3), (4, 5, 6))]
    assert [len(period) for period in periods] == [1, 1, 1]
    assert len(set.union(*periods)) == 3


def test_a_teacher_that_reads_text_with_another_encoder_is_refused(made, memory_host, tmp_path):
    """Of the same architecture and shape, trained over an encoder of another seed's."""
    other = run(merged(TINY_RUN, DATA, {"run": {"steps": 1, "seed": 9}, "samples": {"every_steps": 0}}), tmp_path / "other", memory_host)
    teachers = [{"name": "generalist"}, {"name": "other", "path": str(other)}]
    with pytest.raises(WeightsError, match="encoder"):
        assembled(from_teacher(made["base"], {"method": options(teachers=teachers)}), memory_host)
