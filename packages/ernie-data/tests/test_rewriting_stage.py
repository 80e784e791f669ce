"""Rewriting by a language model under the contract, and the stage: models that obey, lie, mangle, answer garbage or nothing."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_core.api import ConfigError, DataStageContext, WeightsError, recheck
from ernie_data.engine.stage import Item
from ernie_data.rewriting.backend import INSTRUCTION, SCHEMA, ask, backend_code
from ernie_data.rewriting.contract import Broken, RewriteReason, Rewritten, lost, opened, required, sealed
from ernie_data.rewriting.entries import RewriteConfig, RewriteServerConfig, RewriteTransformersConfig
from ernie_data.rewriting.rules import STYLES
from ernie_data.rewriting.stage import RULES, Rewrite, build, source_of

CAPTION = "A kiosk with 12 lamps under two flags and a sign 'Don't Panic', next to a board \"Ice & Tea\" in bright morning light."
ZH = "一个挂着3盏灯笼的茶馆，门口的招牌写着“清心茶馆”，旁边还有两只猫在晒太阳，整体氛围宁静温暖。"


class Fake:
    """Answers from a function of the description; counts what it was asked."""

    def __init__(self, answer) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def answers(self, prompts):
        self.asked += prompts
        return [self.answer(prompt.removeprefix(INSTRUCTION)) for prompt in prompts]


def obedient(text: str) -> str:
    text = text.partition("\n\nYour last answer")[0]
    return json.dumps(dict.fromkeys(STYLES, f"Well: {text}" if text.isascii() else f"好：{text}"), ensure_ascii=False)


def answer_of(**changed: str):
    return lambda text: json.dumps({**json.loads(obedient(text)), **changed})


def one(model: Fake, caption: str = CAPTION, **options):
    return ask(model, [caption], retries=options.pop("retries", 2), max_characters=options.pop("max_characters", 6000))[0]


def test_quotes_numbers_and_counts_travel_as_placeholders():
    seal = sealed(CAPTION)
    assert seal.text == "A kiosk with [[N1]] lamps under [[N2]] flags and a sign [[Q1]], next to a board [[Q2]] in bright morning light."
    assert seal.contents == {"N1": "12", "N2": "two", "Q1": "'Don't Panic'", "Q2": '"Ice & Tea"'}
    assert sealed(ZH).contents == {"N1": "3", "N2": "两", "Q1": "“清心茶馆”"}


@pytest.mark.parametrize("caption", [CAPTION, ZH])
def test_an_obedient_model_is_believed_and_everything_is_back_in_its_place(caption):
    model = Fake(obedient)
    found, mended = one(model, caption)
    assert not mended
    assert len(model.asked) == 1
    assert set(found) == set(STYLES)
    assert all(text.endswith(caption) for text in found.values())


def test_marks_around_a_placeholder_are_not_doubled():
    styles, _ = opened(Rewritten(*["board “[[Q2]]” sign [[Q1]] [[N1]] [[N2]]"] * 4), sealed(CAPTION), max_characters=500)
    assert styles["request"] == "board “Ice & Tea” sign 'Don't Panic' 12 two"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda text: "I cannot do that.", RewriteReason.GARBAGE),
        (lambda text: obedient(text)[:-40], RewriteReason.GARBAGE),
        (lambda text: json.dumps({"keywords": "x"}), RewriteReason.GARBAGE),
        (answer_of(request=""), RewriteReason.GARBAGE),
        (answer_of(request="a\u0000b"), RewriteReason.GARBAGE),
        (answer_of(request="a\U000f0000b"), RewriteReason.GARBAGE),
        (answer_of(request="[[Q1]] [[Q2]] [[N1]] [[N2]] [[Q1]]"), RewriteReason.PLACEHOLDERS),
        (answer_of(request="[[Q1]] [[Q2]] [[N1]] [[N2]] [[Q9]]"), RewriteReason.PLACEHOLDERS),
        (answer_of(request="[[Q1]] [[Q2]] [[N2]] and 12 lamps"), RewriteReason.PLACEHOLDERS),
        (
            answer_of(request="[[Q1]] [[Q2]] [[N1]] [[N2]] 一个挂着灯笼的茶馆，门口的招牌旁边还有猫在晒太阳，整体氛围宁静温暖。"),
            RewriteReason.OTHER_LANGUAGE,
        ),
        (answer_of(request="[[Q1]] [[Q2]] [[N1]] [[N2]]" + " and a lamp" * 1000), RewriteReason.TOO_LONG),
        (answer_of(request="[[Q1]] [[Q2]] [[N1]] [[N2]] half \ud800 of a pair"), RewriteReason.GARBAGE),
    ],
)
def test_an_answer_that_breaks_the_contract_is_asked_for_twice_more_and_then_given_up(answer, reason):
    model = Fake(answer)
    outcome = one(model)
    assert isinstance(outcome, Broken)
    assert outcome.reason == reason
    assert len(model.asked) == 3
    assert "Your last answer was refused: " in model.asked[2]


def test_a_second_answer_can_be_right():
    model = Fake(lambda text: obedient(text) if "refused" in text else "no")
    assert not isinstance(one(model), Broken)
    assert len(model.asked) == 2


def test_quotes_that_are_lost_for_good_are_repaired_at_the_end():
    found, mended = one(Fake(answer_of(request="A kiosk: [[N1]] lamps, [[N2]] flags and [[Q2]]")))
    assert mended
    assert found["request"] == 'A kiosk: 12 lamps, two flags and "Ice & Tea". Text: "Don\'t Panic".'


def test_what_is_too_long_is_not_asked_and_a_silent_server_not_again():
    model = Fake(obedient)
    assert one(model, max_characters=50).reason == RewriteReason.TOO_LONG
    assert model.asked == []
    silent = Fake(lambda text: Broken(RewriteReason.SERVER, "503"))
    assert one(silent).reason == RewriteReason.SERVER
    assert len(silent.asked) == 1


@given(st.lists(st.sampled_from(["[[Q1]]", "[[Q2]]", "[[N1]]", "[[N2]]", "[[Q3]]", "'Don't Panic'", '"', " a ", "“", "\n"]), max_size=12))
def test_whatever_a_model_answers_no_quote_is_lost(parts):
    seal = sealed(CAPTION)
    try:
        styles, _ = opened(Rewritten(*["".join(parts)] * 4), seal, max_characters=500, repair=True)
    except Broken:
        return
    assert all(not lost(text, required(CAPTION)) for text in styles.values())


# ---- the stage ----


def stage(model: Fake | None = None, **options) -> Rewrite:
    made = build(RewriteConfig(**options), DataStageContext(lambda *a: None))
    if model is not None:
        made._model = model
        made.writer = "fake"
    return made


def kept(made: Rewrite, columns: dict) -> dict:
    (outcome,) = made.many([Item("k", columns, lambda: b"")])
    return dict(outcome.columns)


def test_rules_give_four_styles_and_keep_the_original():
    row = kept(stage(), {"captions": {"text": CAPTION, "keywords": "old"}})
    assert set(row["captions"]) == {"text", *STYLES}
    assert row["captions"]["text"] == CAPTION
    assert row["captions"]["keywords"] != "old"
    assert row["original_captions"] == {"text": CAPTION, "keywords": "old"}
    assert row["rewriter"] == RULES
    assert row.keys() & {"rewrite_fallback"} == set()
    assert set(kept(stage(keep_original=False), {"captions": {"text": CAPTION}})["captions"]) == set(STYLES)


def test_a_model_that_fails_is_replaced_by_the_rules_with_the_reason():
    row = kept(stage(Fake(lambda text: "no")), {"captions": {"text": CAPTION}})
    assert (row["rewriter"], row["rewrite_fallback"], row["rewrite_repaired"]) == (RULES, "garbage", False)
    assert all(not lost(text, required(CAPTION)) for text in row["captions"].values())
    good = kept(stage(Fake(obedient)), {"captions": {"text": CAPTION}})
    assert (good["rewriter"], "rewrite_fallback" in good) == ("fake", False)


def test_other_languages_are_taken_over_as_they_are_and_no_caption_is_said():
    text = "un chat dans la rue avec une pomme et « Bonjour »"
    row = kept(stage(), {"captions": {"text": text}})
    assert {row["captions"][style] for style in STYLES} == {text}
    assert row["rewrite_fallback"] == "language"
    assert kept(stage(), {"captions": {}}) == {"rewrite_fallback": "no_caption"}
    assert kept(stage(), {}) == {"rewrite_fallback": "no_caption"}


def test_which_caption_is_rewritten():
    captions = {"short": "a cat", "composition": "a cat at the window", "other": "a cat at the window of a house"}
    assert source_of({"captions": captions}).prose == "a cat at the window"
    assert source_of({"captions": {**captions, "text": "the text"}}).prose == "the text"
    assert source_of({"captions": {"a": "a cat", "b": "a big cat"}}).prose == "a big cat"
    assert source_of({"captions": captions}, "short").prose == "a cat"
    assert source_of({"captions": captions}, "missing") is None
    structured = {
        **dict.fromkeys(("lighting", "composition", "style"), ""),
        "subject": "a cat",
        "attributes": [],
        "relations": [],
        "text": ["Hi"],
        "description": "A cat.",
    }
    found = source_of({"captions": captions, "caption": structured})
    assert found.contents == ("Hi",)
    assert found.structured.subject == "a cat"
    assert source_of({"captions": captions, "caption": {"boxes": []}}).prose == "a cat at the window", "another captioner's structure"


def test_the_stage_is_named_by_what_shapes_its_answers():
    server = RewriteServerConfig(url="http://127.0.0.1:1/v1", model="m")
    moved = msgspec.structs.replace(server, url="http://127.0.0.1:2/v1")
    assert stage(backend="server", server=server).code == stage(backend="server", server=moved).code
    assert stage(backend="server", server=server).code != stage().code
    assert backend_code(server) != backend_code(msgspec.structs.replace(server, model="n"))
    assert stage(backend="server", server=server).actor
    assert not stage().actor


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "server"}, "needs a table `server` that says which model"),
        (
            {"transformers": RewriteTransformersConfig(path="x")},
            'the table `transformers` belongs to backend = "transformers", found backend = "rules"',
        ),
        ({"retries": 3}, "<= 2"),
        ({"max_characters": 3}, ">= 200"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        recheck(RewriteConfig(**options))


# ---- backends ----


@pytest.fixture
def server():
    """A chat server that obeys, but for captions with "silent", to which it gives half an answer."""

    class Handler(BaseHTTPRequestHandler):
        asked: list[dict] = []

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.asked.append(body)
            content = body["messages"][-1]["content"]
            prompt = content if isinstance(content, str) else "".join(part["text"] for part in content)
            text = obedient(prompt.removeprefix(INSTRUCTION))
            data = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
            if "silent" in prompt:
                data = b"{}"
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def test_a_server_rewrites_and_its_failures_cost_their_records_only(server):
    config = RewriteServerConfig(url=f"http://127.0.0.1:{server.server_port}/v1", model="m")
    made = stage(backend="server", server=config)
    made.setup()
    rows = made.many([Item(str(n), {"captions": {"text": text}}, lambda: b"") for n, text in enumerate((CAPTION, "a silent street", ZH))])
    assert [row.columns["rewriter"] == RULES for row in rows] == [False, True, False]
    assert rows[1].columns["rewrite_fallback"] == "garbage"
    assert rows[0].columns["captions"]["request"].endswith(CAPTION)
    schemas = [body.get("response_format", {}).get("json_schema", {}).get("schema") for body in server.RequestHandlerClass.asked]
    assert schemas[0] == json.loads(json.dumps(SCHEMA))
    made.teardown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Qwen3 with random weights: of the released class, and knowing nothing."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models
    from tokenizers.pre_tokenizers import ByteLevel

    inner = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}, merges=[]))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
    )
    place = tmp_path_factory.mktemp("models") / "tiny"
    transformers.Qwen3ForCausalLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_a_random_model_answers_garbage_and_the_rules_stand_in(folder):
    config = RewriteTransformersConfig(path=str(folder), dtype="float32", device="cpu", max_new_tokens=6)
    made = stage(backend="transformers", transformers=config, retries=1)
    made.setup()
    row = kept(made, {"captions": {"text": CAPTION}})
    assert row["rewriter"] == RULES
    assert row["rewrite_fallback"] in ("garbage", "too_long")
    assert all(not lost(text, required(CAPTION)) for text in row["captions"].values())
    again = made._model.answers([INSTRUCTION + CAPTION, "hello"])
    assert [str(answer) for answer in again] == [str(made._model.answers([prompt])[0]) for prompt in (INSTRUCTION + CAPTION, "hello")]
    long = made._model.answers(["x" * 5000])[0]
    assert isinstance(long, Broken)
    assert long.reason == RewriteReason.TOO_LONG


def test_models_that_cannot_be_loaded_are_said_in_one_line(folder, tmp_path):
    def load(**options):
        stage(backend="transformers", transformers=RewriteTransformersConfig(**options)).setup()

    with pytest.raises(ConfigError, match="pin it with `revision`"):
        load(path="owner/name")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError):
        load(path=str(tmp_path))
    with pytest.raises(ConfigError, match="CUDA devices"):
        load(path=str(folder), device="cuda:63")
