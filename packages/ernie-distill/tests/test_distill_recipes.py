"""The recipes for distillation and its experts decode, every key of them, and so do the configs of this package's page."""

import re
from pathlib import Path

from ernie_core.api import App
from ernie_distill.experts.config import TeachersConfig
from ernie_distill.method_config import MtDmdConfig

ROOT = Path(__file__).parents[3]


def test_the_recipe_of_a_student_decodes():
    config = App().load_config([ROOT / "recipes" / "turbo.toml"], []).config
    options = config.method.options
    assert isinstance(options, MtDmdConfig)
    period = options.fake_steps + 1
    assert (config.total_steps - options.fake_warmup_steps) % period == 0, "the last turn is the student's"


def test_the_recipe_of_experts_decodes_and_knows_the_domains_of_the_recipe_of_a_set():
    config = App().read_config(ROOT / "recipes" / "teachers.toml", TeachersConfig).config
    domains = re.findall(r'^name = "(.+)"', (ROOT / "recipes" / "sft-data.toml").read_text(), re.MULTILINE)
    assert {domain for expert in config.experts for domain in expert.domains} <= set(domains)


def test_the_configs_of_the_page_decode(tmp_path):
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "packages" / "ernie-distill" / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        (tmp_path / "run.toml").write_text(block)
        assert App().load_config([tmp_path / "run.toml"], []).config.stages
