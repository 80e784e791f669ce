"""Word splitting and the bytes encoder."""

import copy
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ernie_core.plugins.hookspecs import EncoderContext
from ernie_core.text.bytes import build_bytes
from ernie_core.text.embeddings import TextEmbeddings, concatenate, pad_right
from ernie_core.text.entries import BytesConfig
from ernie_core.text.truncation import TruncationWarning
from ernie_core.text.words import join_words, split_words

PROMPTS = [
    "a large red circle at the top left",
    "",
    "一张红色的海报，上面写着你好世界",
    "two  spaces\nand a line",
    "Straße naïve हिन्दी 東京タワー 👩‍🚀 x_1",
]


def encoder(seed=0, dtype=torch.float32, **options):
    return build_bytes(BytesConfig(**options), EncoderContext(torch.device("cpu"), dtype, seed))


def normalised(text):
    import unicodedata

    return unicodedata.normalize("NFC", text)


@given(st.text(st.characters(codec="utf-8")), st.integers(4, 20))
def test_splitting_loses_nothing_and_respects_the_limit(text, max_bytes):
    pieces = split_words(text, max_bytes)
    assert join_words(pieces) == normalised(text)
    assert all(0 < len(piece.data) <= max_bytes for piece in pieces)


def test_words_cost_one_token_each_in_any_script():
    words = [piece.data.decode() for piece in split_words("a large red circle, at the top left.", 16)]
    assert words == ["a", "large", "red", "circle", ",", "at", "the", "top", "left", "."]
    assert len(split_words("红色的海报", 16)) == 5
    assert [p.data.decode() for p in split_words("हिन्दी भाषा", 32)] == ["हिन्दी", "भाषा"]
    assert [p.data.decode() for p in split_words("size 1024x768", 16)] == ["size", "1024", "x", "768"]
    assert [p.data for p in split_words("x" * 40, 16)] == [b"x" * 16, b"x" * 16, b"x" * 8]


def test_prompts_that_a_shell_mangled_are_still_encoded():
    prompt = b"caf\xe9 red".decode("utf-8", "surrogateescape")
    assert join_words(split_words(prompt, 16)) == prompt
    assert encoder().encode([prompt]).lens == (3,)


def test_the_empty_prompt_is_one_learned_token():
    module = encoder()
    text = module.encode(["", "red", ""])
    assert text.lens == (1, 1, 1)
    torch.testing.assert_close(text.text_BTE[0], text.text_BTE[2])
    text.text_BTE[0].square().sum().backward()
    assert module.start_E.grad.abs().sum() > 0


@pytest.mark.parametrize("mixer_layers", [0, 2])
def test_a_prompt_does_not_depend_on_its_batch(mixer_layers):
    module = encoder(mixer_layers=mixer_layers)
    batch = module.encode(PROMPTS)
    for prompt, length, row in zip(PROMPTS, batch.lens, batch.text_BTE):
        alone = module.encode([prompt])
        assert alone.lens == (length,)
        torch.testing.assert_close(row[:length], alone.text_BTE[0], atol=1e-5, rtol=0)
        assert torch.equal(row[length:], torch.zeros_like(row[length:]))


@given(st.text("abcdexyz", min_size=1, max_size=16), st.text("abcdexyz", min_size=1, max_size=16))
def test_two_different_words_in_one_place_differ(first, second):
    module = ENCODER
    with torch.no_grad():
        one, other = module.encode([f"a {first} square", f"a {second} square"]).text_BTE[:, 1]
    if first == second:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    else:
        assert float((one - other).norm() / one.norm()) > 0.05


ENCODER = encoder(seed=3)


def test_anagrams_spaces_and_order_are_told_apart():
    with torch.no_grad():
        text = ENCODER.encode(["on top", "no top", "ontop", "top on"])
    assert text.lens == (2, 2, 1, 2)
    assert not torch.allclose(text.text_BTE[0, 0], text.text_BTE[1, 0], atol=0.05)
    assert not torch.allclose(text.text_BTE[0], text.text_BTE[3], atol=0.05)
    with torch.no_grad():
        glued, spaced = ENCODER.encode(["4 px", "4px"]).text_BTE[:, 1]
    assert not torch.allclose(glued, spaced, atol=0.05)


def test_initialisation_follows_the_seed_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, again, other = encoder(seed=7), encoder(seed=7), encoder(seed=8)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first.word_in.weight, other.word_in.weight)
    text = first.encode(["a large red circle at the top left"]).text_BTE
    assert 0.5 < float(text.detach().std()) < 1.5


def test_every_parameter_learns():
    module = encoder()
    assert module.trainable
    module.encode(PROMPTS).text_BTE.pow(3).sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert not module.table.weight.grad[module.padding_index].any()


def test_long_prompts_are_cut_with_a_warning_that_counts():
    module = encoder(max_tokens=4)
    message = "2 of 3 prompts are longer than 4 tokens: 5 tokens were cut, up to 4 from one prompt"
    with pytest.warns(TruncationWarning, match=message):
        text = module.encode(["one two three four five six seven eight", "a b c d e", "short"])
    assert text.lens == (4, 4, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.encode(["one two three four"])


def test_embeddings_are_padded_joined_and_cut():
    rows = [torch.ones(2, 3), 2 * torch.ones(4, 3), 3 * torch.ones(1, 3)]
    text = pad_right(rows)
    assert text.lens == (2, 4, 1)
    assert text.text_BTE.shape == (3, 4, 3)
    assert [r.shape[0] for r in text.unpadded()] == [2, 4, 1]
    assert text.rows([2, 0, 0]).text_BTE.shape == (3, 2, 3)
    joined = concatenate(text.rows([2]), text)
    assert joined.lens == (1, 2, 4, 1)
    assert torch.equal(joined.text_BTE[1:], text.text_BTE)
    assert joined.lens_B.tolist() == [1, 2, 4, 1]
    with pytest.raises(ValueError, match="with 2 lengths"):
        TextEmbeddings(torch.zeros(1, 2, 3), (1, 2))


def test_a_copy_learns_apart_and_half_precision_gives_half_precision():
    module = encoder()
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.word_in.weight.zero_()
    assert not torch.allclose(twin.encode(PROMPTS).text_BTE, module.encode(PROMPTS).text_BTE)
    half = encoder(dtype=torch.bfloat16).encode(PROMPTS).text_BTE
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), module.encode(PROMPTS).text_BTE, atol=0.1, rtol=0.1)
