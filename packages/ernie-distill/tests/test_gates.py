"""Gates as a config selects them: the contract for each, then what each is for, in numbers."""

import math
from functools import cache
from pathlib import Path

import pytest
import torch

from ernie_core.api import ConfigError, GateContext, PluginHost, Selection
from ernie_core.config.base import Config
from ernie_distill.gate_config import (
    BumpConfig,
    ConstantConfig,
    DomainConfig,
    FitConfig,
    LearnedConfig,
    ProductConfig,
    ScheduleConfig,
    SpatialConfig,
)
from ernie_distill.gates.domain import Shares
from ernie_distill.gates.learned import GateNetwork, feature_count, save_gate
from ernie_distill.gates.spatial import blend
from ernie_distill.quoted import quoted, without_quoted
from ernie_distill.testing import GateContract, rows_of

MEMORY = Path(__file__).parent / "memory"
CONTEXT = GateContext(("generalist", "art", "text", "layout"), ((), ("art", "photo"), ("text",), ()))
DOMAIN = DomainConfig()


@cache
def installed() -> PluginHost:
    return PluginHost.discover(disable=["align", "data"])


class Ours(GateContract):
    def host(self) -> PluginHost:
        return installed()


class TestConstant(Ours):
    entry = "constant"
    options = {"match": {"generalist": 0.25, "art": 0.75}, "guidance": {"text": 0.6}}


class TestConstantByDefault(Ours):
    entry = "constant"


class TestOfOneTeacher(Ours):
    entry = "product"
    teachers = ("generalist",)
    domains = ((),)


class TestSchedule(Ours):
    entry = "schedule"
    options = {
        "teachers": {"layout": {"center": 0.9}, "art": {"center": 0.55, "width": 0.15}, "text": {"center": 0.2, "width": 0.1, "prior": 2.0}}
    }


class TestScheduleOfNarrowBumps(Ours):
    entry = "schedule"
    options = {
        "teachers": {name: {"center": 0.5, "width": 0.001} for name in ("generalist", "art", "text", "layout")},
        "guidance_budget": 0.5,
    }
    guidance_budget = 0.5


class TestDomain(Ours):
    entry = "domain"
    options = {"leak": 0.2, "keywords": {"art": ["oil painting"]}}


class TestProduct(Ours):
    entry = "product"
    options = {
        "match_prior": {"text": 0.0, "art": 3.0},
        "guidance_prior": {"art": 0.0},
        "schedule": {"layout": {"center": 0.9}, "generalist": {"center": 0.2}},
        "domain": {"keywords": {"art": ["oil painting"]}},
    }


class TestProductByDefault(Ours):
    entry = "product"


class TestProductWithinABudget(Ours):
    entry = "product"
    options = {"guidance_norm": "budget", "guidance_budget": 0.4, "guidance_prior": {"text": 5.0}}
    guidance_budget = 0.4


class TestSpatial(Ours):
    entry = "spatial"
    options = {"inside": 0.8, "base": {"guidance_norm": "budget", "guidance_budget": 0.7, "schedule": {"art": {"center": 0.5}}}}
    guidance_budget = 0.7


class TestLearned(Ours):
    entry = "learned"

    @pytest.fixture(autouse=True)
    def _fitted(self, tmp_path: Path) -> None:
        write_gate(tmp_path / "gate", self.teachers)
        self.options = {"path": str(tmp_path / "gate")}


class TestOfAnotherPlugin(GateContract):
    entry = "memory-words"

    @pytest.fixture(autouse=True)
    def _memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(MEMORY))
        self.memory_host = PluginHost.discover(disable=["align", "data"])

    def host(self) -> PluginHost:
        return self.memory_host

    @pytest.mark.parametrize(
        ("fault", "test"),
        [
            ("sum", "weights_keep_the_laws_of_both_objectives"),
            ("sum", "weights_keep_the_laws_at_every_noise_level"),
            ("batch", "a_sample_does_not_depend_on_its_batch"),
            ("state", "equal_inputs_give_equal_weights"),
            ("gradient", "no_gradient_passes"),
            ("in-place", "inputs_stay_as_they_were"),
            ("silent", "it_says_what_it_is"),
        ],
    )
    def test_the_contract_finds_what_breaks_a_law(self, fault, test):
        self.options = {"fault": fault}
        with pytest.raises((AssertionError, ConfigError)):
            getattr(self, f"test_{test}")()


def write_gate(folder, teachers, *, guidance="rewards", text_width=12, channels=3):
    """A gate of random weights, as it lies on disk."""
    network = GateNetwork(feature_count(text_width, channels), torch.full((len(teachers),), 1 / len(teachers)), hidden=8, floor=0.1, seed=1)
    network.outer.weight.data.normal_(generator=torch.Generator().manual_seed(2))
    facts = {
        "teachers": [{"name": name, "sha256": "0"} for name in teachers],
        "text_width": text_width,
        "channels": channels,
        "guidance": guidance,
        "errors": {"train": {"gate": 0.5}, "held_out": None},
    }
    save_gate(folder, network.requires_grad_(False), facts)
    return network


def built(name: str, options: Config, context: GateContext = CONTEXT):
    return installed().build("gates", Selection(name, options), context)


def asked(gate, objective, *, sigma=0.5, domain="", prompt="a harbour"):
    """The weights of one sample by teacher."""
    inputs = rows_of(TestConstant().inputs(objective), [0])
    one = type(inputs)(objective, torch.tensor([sigma]), [domain], [prompt], inputs.text, inputs.x_BCHW, inputs.region)
    return dict(zip(CONTEXT.teachers, gate(one)[0].tolist(), strict=True))


# ---- constant ----


def test_constant_weights_are_those_that_were_named():
    gate = built("constant", ConstantConfig(match={"art": 0.75, "generalist": 0.25}, guidance={"text": 0.6}))
    assert asked(gate, "dm") == {"generalist": 0.25, "art": 0.75, "text": 0, "layout": 0}
    assert asked(gate, "ca") == pytest.approx({"generalist": 0, "art": 0, "text": 0.6, "layout": 0})


def test_by_default_the_generalist_is_alone_and_guidance_follows_matching():
    alone = {"generalist": 1, "art": 0, "text": 0, "layout": 0}
    assert asked(built("constant", ConstantConfig()), "dm") == asked(built("constant", ConstantConfig()), "ca") == alone
    assert asked(built("constant", ConstantConfig(match={"text": 1.0})), "ca")["text"] == 1


@pytest.mark.parametrize(
    ("weights", "found"), [({"generalist": 0.8, "art": 0.8}, "1.6"), ({"generalist": 0.9}, "0.9"), ({"art": 0.0}, "0")]
)
def test_matching_weights_that_do_not_sum_to_one_are_refused_with_their_sum(weights, found):
    with pytest.raises(ValueError, match=f"match: the weights sum to {found}; they must sum to 1"):
        ConstantConfig(match=weights)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("constant", ConstantConfig(match={"sculpture": 1.0})),
        ("constant", ConstantConfig(guidance={"sculpture": 1.0})),
        ("schedule", ScheduleConfig(teachers={"sculpture": BumpConfig(center=0.5)})),
        ("product", ProductConfig(schedule={"sculpture": BumpConfig(center=0.5)})),
        ("product", ProductConfig(match_prior={"sculpture": 1.0})),
        ("product", ProductConfig(guidance_prior={"sculpture": 1.0})),
        ("spatial", SpatialConfig(base=ProductConfig(match_prior={"sculpture": 1.0}))),
    ],
)
def test_a_name_that_is_no_teachers_is_refused(name, options):
    with pytest.raises(ConfigError, match=f"gate {name}.*: no teacher is called `sculpture`; teachers: generalist, art, text, layout"):
        built(name, options)


# ---- schedule ----


def test_a_schedule_is_the_softmax_of_its_bumps_for_matching_and_the_bumps_for_guidance():
    gate = built(
        "schedule",
        ScheduleConfig(teachers={"layout": BumpConfig(center=0.9, width=0.2), "text": BumpConfig(center=0.2, width=0.1, prior=0.5)}),
    )
    scores = {
        sigma: {
            "generalist": 1.0,
            "art": 1.0,
            "text": 0.5 * math.exp(-((sigma - 0.2) ** 2) / 0.02),
            "layout": math.exp(-((sigma - 0.9) ** 2) / 0.08),
        }
        for sigma in (0.1, 0.5, 0.9)
    }
    for sigma, raw in scores.items():
        total = sum(raw.values())
        normalised = pytest.approx({name: score / total for name, score in raw.items()}, abs=1e-6)
        assert asked(gate, "dm", sigma=sigma) == normalised
        assert asked(gate, "ca", sigma=sigma) == normalised, "two teachers that always count alone exceed the budget of 1"


def test_guidance_fades_where_no_bump_is_unless_it_is_normalised():
    bumps = {name: BumpConfig(center=0.3, width=0.05) for name in CONTEXT.teachers}
    faded = asked(built("schedule", ScheduleConfig(teachers=bumps)), "ca", sigma=0.45)
    assert faded == pytest.approx(dict.fromkeys(CONTEXT.teachers, math.exp(-4.5)))
    whole = asked(built("schedule", ScheduleConfig(teachers=bumps, guidance_norm="simplex")), "ca", sigma=0.45)
    assert whole == pytest.approx(dict.fromkeys(CONTEXT.teachers, 0.25))


def test_layout_hands_over_to_texture():
    gate = built(
        "schedule",
        ScheduleConfig(teachers={"layout": BumpConfig(center=0.9), "text": BumpConfig(center=0.2), "art": BumpConfig(center=0.55)}),
    )
    assert asked(gate, "dm", sigma=0.95)["layout"] > 2 * asked(gate, "dm", sigma=0.95)["art"]
    assert asked(gate, "dm", sigma=0.1)["text"] > 2 * asked(gate, "dm", sigma=0.1)["art"]


# ---- domain ----


def shares(config=DOMAIN, context=CONTEXT, **sample):
    row = Shares(config, context, where="gate domain").rows([sample.get("domain", "")], [sample.get("prompt", "")])
    return dict(zip(context.teachers, row[0].tolist(), strict=True))


def test_a_records_domain_goes_to_its_experts_and_a_leak_to_those_of_none():
    assert shares(domain="art") == pytest.approx({"generalist": 0.05, "art": 0.9, "text": 0, "layout": 0.05})
    assert shares(DomainConfig(leak=0.0), domain="photo")["art"] == 1
    two = GateContext(("generalist", "a", "b"), ((), ("art",), ("art", "text")))
    assert shares(context=two, domain="art") == pytest.approx({"generalist": 0.1, "a": 0.45, "b": 0.45})


def test_an_unknown_domain_goes_to_the_teachers_of_none_whatever_the_prompt_says():
    assert shares(domain="maps", prompt='a map titled "X"') == {"generalist": 0.5, "art": 0, "text": 0, "layout": 0.5}
    lone = GateContext(("generalist", "art"), (("photo",), ("art",)))
    assert shares(context=lone, domain="maps") == {"generalist": 1, "art": 0}


def test_without_a_domain_the_words_of_the_prompt_decide():
    config = DomainConfig(leak=0.0, keywords={"art": ("oil painting", "Aquarell")})
    assert shares(config, prompt='a sign "OPEN"')["text"] == 1
    assert shares(config, prompt="an OIL PAINTING of a dog")["art"] == 1
    assert shares(config, prompt="turmoil paintings")["art"] == 0
    chinese = DomainConfig(leak=0.0, keywords={"art": ("海报", "3D渲染")})
    assert shares(chinese, prompt="一张海报设计")["art"] == 1
    assert shares(chinese, prompt="高清3D渲染图")["art"] == 1
    assert shares(chinese, prompt="13D渲染")["art"] == 0
    assert shares(config, prompt='an aquarell with the words "Für Elise"') == {"generalist": 0, "art": 0.5, "text": 0.5, "layout": 0}
    assert shares(config, prompt="a dog")["generalist"] == 0.5
    assert shares(DomainConfig(quoted=None), prompt='a sign "OPEN"')["text"] == 0


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ('says "Hello" and "World"', ("Hello", "World")),
        ("“OPEN” „ZU“ «FERMÉ» ‹un› 「営業中」 『閉店』 ‘shut’", ("OPEN", "ZU", "FERMÉ", "un", "営業中", "閉店", "shut")),
        ("a sign that says 'don't walk' here", ("don't walk",)),
        ("the dogs' owner's house isn't far", ()),
        ("it's the '90s", ()),
        ('an empty "" and a blank " "', ()),
        ("", ()),
        ('unclosed "quote', ()),
        ("写着‘开业大吉’的字样，写着'开业'两个字", ("开业大吉", "开业")),
        ("写着'OPEN'的招牌", ("OPEN",)),
        ("写着'开业'和'大吉'的字样", ("开业", "大吉")),
        ("招牌上写着＂营业中＂", ("营业中",)),
        ("간판에 '영업중'이라고", ("영업중",)),
        ('a 5" x 7" print', ()),
        ('a 5" x 7" print of "HOME"', ("HOME",)),
        ("rock 'n' roll", ()),
    ],
)
def test_what_is_quoted(prompt, texts):
    assert quoted(prompt) == texts


def test_quotes_are_taken_out_of_a_prompt():
    assert without_quoted('a sign that says "no entry" in red') == "a sign that says in red"
    assert without_quoted("the dog's bone") == "the dog's bone"
    assert without_quoted('"all"') == ""


@pytest.mark.parametrize(
    ("keywords", "message"), [({"maps": ("map",)}, "keywords for `maps`, but no teacher .*; domains of the teachers: art, photo, text")]
)
def test_keywords_that_lead_nowhere_are_refused(keywords, message):
    for name, options in (("domain", DomainConfig(keywords=keywords)), ("product", ProductConfig(domain=DomainConfig(keywords=keywords)))):
        with pytest.raises(ConfigError, match=f"gate {name}: {message}"):
            built(name, options)


@pytest.mark.parametrize("words", [(), (" ",), ("map", "")])
def test_a_domain_of_no_words_is_refused(words):
    with pytest.raises(ValueError, match="keywords: domain `art` has no words, or blank ones"):
        DomainConfig(keywords={"art": words})


# ---- product ----


def test_the_product_is_the_normalised_product():
    bumps = {"layout": BumpConfig(center=0.9, width=0.3), "art": BumpConfig(center=0.5, width=0.2)}
    gate = built("product", ProductConfig(match_prior={"art": 2.0}, guidance_prior={"art": 0.5}, schedule=bumps))
    for objective, prior in (("dm", 2.0), ("ca", 0.5)):
        art, layout = math.exp(-(0.1**2) / (2 * 0.2**2)), math.exp(-(0.3**2) / (2 * 0.3**2))
        raw = {"generalist": 0.05, "art": prior * 0.9 * art, "text": 0.0, "layout": 0.05 * layout}
        found = asked(gate, objective, sigma=0.6, domain="art")
        assert found == pytest.approx({name: score / sum(raw.values()) for name, score in raw.items()}, abs=1e-6)


def test_by_default_the_product_is_the_domains_share():
    for objective in ("dm", "ca"):
        assert asked(built("product", ProductConfig()), objective, sigma=0.9, domain="art") == pytest.approx(shares(domain="art"))


def test_an_expert_may_count_for_one_objective_only():
    gate = built("product", ProductConfig(match_prior={"text": 0.0}, guidance_prior={"art": 0.0}, domain=DomainConfig(leak=0.0)))
    assert asked(gate, "ca", domain="text")["text"] == 1
    assert asked(gate, "dm", domain="text") == {"generalist": 1, "art": 0, "text": 0, "layout": 0}, "nobody is left: the generalist"


def test_priors_of_nobody_are_refused():
    with pytest.raises(ConfigError, match="gate product: match_prior: 0 for all teachers"):
        built("product", ProductConfig(match_prior=dict.fromkeys(CONTEXT.teachers, 0.0)))


# ---- spatial ----


def test_text_experts_take_over_inside_of_the_region_only():
    base_BK, expert_K = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([False, False, True])
    weights = blend(base_BK, expert_K, torch.tensor([[[[0.0, 0.5, 1.0]]]]), inside=0.9)
    assert weights[0, :, 0, 0].T.tolist() == [
        pytest.approx([0.5, 0.3, 0.2]),
        pytest.approx([0.28125, 0.16875, 0.55]),
        pytest.approx([0.0625, 0.0375, 0.9]),
    ]


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ([0.0, 0.0, 1.0], [0.0, 0.0, 1.0]),  # more than `inside` already
        ([1.0, 0.0, 0.0], [0.1, 0.0, 0.9]),  # an expert without weight
        ([0.4, 0.0, 0.0], [0.04, 0.0, 0.36]),  # a budget below 1 is kept
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    ],
)
def test_the_sum_is_kept_at_every_place(base, expected):
    weights = blend(torch.tensor([base]), torch.tensor([False, False, True]), torch.ones(1, 1, 2, 2), inside=0.9)
    assert weights[0, :, 0, 1, 1].tolist() == pytest.approx(expected, abs=1e-7)


def test_several_text_experts_share_as_they_did():
    weights = blend(torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([False, True, True]), torch.ones(1, 1, 1, 1), inside=0.8)
    assert weights.flatten().tolist() == pytest.approx([0.2, 0.6, 0.2])


def test_the_region_is_asked_for_only_where_text_is_quoted_and_guidance_wanted():
    gate, calls = built("spatial", SpatialConfig()), []
    inputs = TestSpatial().inputs("ca")

    def region():
        calls.append(1)
        return inputs.region()

    def weights(objective, rows):
        chosen = rows_of(inputs, rows)
        return gate(
            type(inputs)(objective, chosen.sigma_B, chosen.domains, chosen.prompts, chosen.text, chosen.x_BCHW, lambda: region()[rows])
        )

    assert weights("dm", [0, 1]).ndim == 2
    assert weights("ca", [1, 3]).ndim == 2
    assert not calls
    assert weights("ca", [0, 1]).shape == (2, 4, 1, 4, 6)
    assert len(calls) == 1


def test_a_committee_without_an_expert_of_text_has_no_spatial_gate():
    with pytest.raises(ConfigError, match="gate spatial: no teacher is an expert of `text`; domains of the teachers: art"):
        built("spatial", SpatialConfig(), GateContext(("generalist", "art"), ((), ("art",))))


# ---- learned, from disk ----


def test_guidance_of_a_gate_without_rewards_is_that_of_matching(tmp_path):
    for guidance, equal in (("rewards", False), ("as-match", True)):
        write_gate(tmp_path / guidance, CONTEXT.teachers, guidance=guidance)
        gate = built("learned", LearnedConfig(path=str(tmp_path / guidance)))
        assert (asked(gate, "dm") == asked(gate, "ca")) == equal


def test_a_learned_gate_refuses_other_teachers_and_another_order(tmp_path):
    write_gate(tmp_path / "gate", CONTEXT.teachers)
    for names in (("generalist", "text", "art", "layout"), ("generalist", "art", "text"), ("generalist", "art", "text", "maps")):
        with pytest.raises(
            ConfigError,
            match=rf"was fitted for the teachers {', '.join(CONTEXT.teachers)}, in this order; here they are {', '.join(names)}",
        ):
            built("learned", LearnedConfig(path=str(tmp_path / "gate")), GateContext(names, ((),) * len(names)))


def test_a_learned_gate_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(ConfigError, match="gate learned: path is missing"):
        built("learned", LearnedConfig())
    with pytest.raises(ConfigError, match=r"no such folder. Write it with `ernie distill gates fit"):
        built("learned", LearnedConfig(path=str(tmp_path / "nowhere")))
    write_gate(tmp_path / "gate", CONTEXT.teachers)
    weights = tmp_path / "gate" / "gate.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match=r"gate.safetensors: sha256 differs from the manifest"):
        built("learned", LearnedConfig(path=str(tmp_path / "gate")))


@pytest.mark.parametrize(
    ("facts", "message"), [({"text_width": 9}, "text_width 9, here it is 12"), ({"channels": 2}, "channels 2, here it is 3")]
)
def test_a_learned_gate_of_another_encoder_or_codec_is_refused(tmp_path, facts, message):
    write_gate(tmp_path / "gate", CONTEXT.teachers, **facts)
    with pytest.raises(ConfigError, match=f"was fitted with {message}: another codec or encoder"):
        asked(built("learned", LearnedConfig(path=str(tmp_path / "gate"))), "dm")


def test_a_gate_of_another_format_or_without_its_files_is_refused(tmp_path):
    from ernie_core import io

    with io.commit_folder(tmp_path / "empty"):
        pass
    with io.commit_folder(tmp_path / "old") as writer:
        writer.add_json("gate.json", {"format": 0})
        writer.add_bytes("gate.safetensors", b"")
    for name, message in (("empty", "holds no gate.json and gate.safetensors"), ("old", "is of format 0, this version reads format 1")):
        with pytest.raises(ConfigError, match=message):
            built("learned", LearnedConfig(path=str(tmp_path / name)))


def test_rewards_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="that of `art` in domain `text` is nan"):
        FitConfig(guidance_rewards={"text": {"art": math.nan}})
