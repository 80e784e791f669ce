"""Plain values written as TOML read back as they were."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_core.config.toml import to_toml

LEAF = st.one_of(st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False), st.text(max_size=20))
PLAIN = st.recursive(
    LEAF,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8), PLAIN, max_size=5))
def test_what_is_written_reads_back_the_same(plain):
    assert tomllib.loads(to_toml(plain)) == plain


def test_a_component_is_written_inline_and_none_is_left_out():
    text = to_toml({"codec": {"use": "pixel", "patch": 4, "scale": None}, "run": {"seed": 1, "steps": None}, "stages": [{"steps": 2}]})
    assert text == 'codec = { use = "pixel", patch = 4 }\n\n[run]\nseed = 1\n\n[[stages]]\nsteps = 2\n'


def test_a_value_that_toml_cannot_hold_is_named():
    with pytest.raises(TypeError, match="TOML cannot hold set"):
        to_toml({"a": {1}})
