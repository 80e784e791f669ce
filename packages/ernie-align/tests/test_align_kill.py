"""K1 at CI size: ``kill -9`` leaves no trace in fine-tuning and in preference training, with a reference that is off, copied, following or cached."""

from pathlib import Path

import pytest

from ernie_align.cache_command import cache_reference
from ernie_core.api import PluginHost, from_plain
from ernie_core.testing.mishaps import at_step, in_call
from ernie_core.testing.resume import KillContract, one_thread

pytestmark = pytest.mark.battery

ADAPTER = {"rank": 2, "targets": ["all"]}


class TestSftKills(KillContract):
    entry = "sft"
    options = {"adapter": ADAPTER, "anchor": 0.5}
    tables = {"data": {"use": "memory-pictures"}}
    kills = ((in_call("ernie_core.io:verify_folder", "SIGKILL"),), (at_step(7, "SIGKILL"), at_step(9, "SIGKILL")))
    test_two_ranks_of_which_one_is_killed_end_and_resume_bitwise = None


class OnPairs(KillContract):
    entry = "dpo"
    tables = {"data": {"use": "memory-pairs"}}
    kills = ((at_step(7, "SIGKILL"), in_call("ernie_align.dpo:Dpo.validate", "SIGKILL", call=1)),)
    test_two_ranks_of_which_one_is_killed_end_and_resume_bitwise = None


class TestAdapterOffKills(OnPairs):
    options = {"adapter": ADAPTER}
    kills = KillContract.kills
    test_two_ranks_of_which_one_is_killed_end_and_resume_bitwise = pytest.mark.slow(
        KillContract.test_two_ranks_of_which_one_is_killed_end_and_resume_bitwise
    )


class TestCopyKills(OnPairs):
    options = {"adapter": False, "reference": {"mode": "copy"}}


class TestFollowingKills(OnPairs):
    options = {"adapter": False, "reference": {"mode": "copy", "ema": 0.9}}


class TestCachedKills(OnPairs):
    @pytest.fixture(autouse=True)
    def _cached(self, memory_host: PluginHost, tmp_path: Path) -> None:
        folder = tmp_path / "errors"
        self.options = {"adapter": False, "draws_per_pair": 2, "reference": {"mode": "cached", "cache": str(folder)}}
        with one_thread():
            cache_reference(from_plain(self.plain(), memory_host), host=memory_host, out=folder)
