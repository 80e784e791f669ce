"""Structured captions, and the server backend against a local server."""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ernie_core.api import ConfigError, MissingComponent, recheck
from ernie_core.chat import AnswerError, ChatError
from ernie_data.vision.entries import VisionConfig, VisionServerConfig, VisionTransformersConfig
from ernie_data.vision.model import VisionError, VisionReason, build_vision, vision_code
from ernie_data.vision.pictures import encode_picture, open_picture
from ernie_data.vision.structure import (
    CAPTION_INSTRUCTION,
    CAPTION_SCHEMA,
    TEXT_SCHEMA,
    StructuredCaption,
    as_description,
    as_keywords,
    caption_pictures,
    plain_captions,
    quoted,
    read_caption,
    read_lines,
    read_pictures,
)

CAPTION = StructuredCaption(
    subject="a red neon sign",
    attributes=["red glass tubes", "brick wall"],
    relations=["sign above a door"],
    text=["OPEN 24h", "Don't Panic", "营业中"],
    lighting="glow of the sign",
    composition="frontal close-up",
    style="photograph",
    description='A red neon sign "OPEN 24h" glows on a brick wall above a door.',
)
ANSWER = msgspec.json.encode(CAPTION).decode()


def picture(size=(40, 24), mode="RGB") -> Image.Image:
    y, x = np.mgrid[: size[1], : size[0]]
    return Image.fromarray(np.stack([x * 255 // size[0], y * 255 // size[1], 120 + 0 * x], axis=-1).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, fmt: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, format=fmt, **options)
    return data.getvalue()


class Canned:
    """A model that gives the same answers whatever it sees, and keeps what it was asked."""

    def __init__(self, *answers: str | VisionError) -> None:
        self.answers = list(answers)
        self.asked: list[tuple] = []

    def describe(self, images, instruction, *, schema=None):
        self.asked.append((images, instruction, schema))
        return self.answers


class TestCaptions:
    def test_an_answer_becomes_a_caption(self):
        assert read_caption(f"Sure:\n```json\n{ANSWER}\n```") == CAPTION

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"subject": ""}, "`subject`"),
            ({"description": " \n"}, "`description`"),
            ({"text": "OPEN"}, "does not fit"),
            ({"text": None}, "does not fit"),
            ({"mood": "calm"}, "does not fit"),
            ({"style": "a\u0000b"}, r"U\+0000"),
            ({"text": ["half a \ud83d pair"]}, r"U\+D83D"),
            ({"description": "the " * 2000}, "lost itself"),
            ({"attributes": [f"a{i}" for i in range(101)]}, "lost itself"),
        ],
    )
    def test_wrong_captions_are_refused(self, change, why):
        with pytest.raises(AnswerError, match=why) as caught:
            read_caption(json.dumps(msgspec.to_builtins(CAPTION) | change))
        assert caught.value.reason == "garbage"

    def test_a_missing_part_is_refused(self):
        with pytest.raises(AnswerError, match="lighting"):
            read_caption(json.dumps({k: v for k, v in msgspec.to_builtins(CAPTION).items() if k != "lighting"}))

    def test_half_a_caption_is_called_so(self):
        with pytest.raises(AnswerError) as caught:
            read_caption(ANSWER[:-20])
        assert caught.value.reason == "half_json"

    def test_empty_and_repeated_entries_go_and_lines_stay(self):
        twice = json.dumps(msgspec.to_builtins(CAPTION) | {"text": ["A", " ", "A", "B\n C"]})
        assert read_caption(twice).text == ["A", "B C"]
        assert read_lines('{"lines": ["A", "", "A", "B\\n C"]}') == ["A", "A", "B C"]

    def test_one_bad_answer_costs_one_caption(self):
        timeout = VisionError(VisionReason.TIMEOUT, "late")
        model = Canned(ANSWER, "no JSON here", timeout, ANSWER[:30])
        outcomes = caption_pictures(model, [b"1", b"2", b"3", b"4"])
        assert outcomes[0] == CAPTION
        assert outcomes[2] is timeout
        assert [outcome.reason for outcome in outcomes[1:]] == ["garbage", "timeout", "half_json"]
        assert model.asked == [([b"1", b"2", b"3", b"4"], CAPTION_INSTRUCTION, CAPTION_SCHEMA)]

    def test_reading(self):
        outcomes = read_pictures(Canned('{"lines": ["SALE", "50 %"]}', '{"lines": []}', '["SALE"]'), [b"1", b"2", b"3"])
        assert outcomes[:2] == [["SALE", "50 %"], []]
        assert outcomes[2].reason is VisionReason.GARBAGE

    @pytest.mark.parametrize(("schema", "keys"), [(CAPTION_SCHEMA, StructuredCaption.__struct_fields__), (TEXT_SCHEMA, ("lines",))])
    def test_schemas_are_those_that_strict_servers_take(self, schema, keys):
        assert schema["type"] == "object"
        assert schema["additionalProperties"] is False
        assert tuple(schema["required"]) == tuple(schema["properties"]) == tuple(keys)
        assert "$" not in json.dumps(schema)
        for value in schema["properties"].values():
            assert value in ({"type": "string"}, {"type": "array", "items": {"type": "string"}})

    def test_the_instruction_names_every_part(self):
        assert all(f'"{name}"' in CAPTION_INSTRUCTION for name in StructuredCaption.__struct_fields__)


class TestPlainCaptions:
    def test_keywords_and_description_keep_the_text_verbatim(self):
        assert as_keywords(CAPTION) == (
            "a red neon sign, red glass tubes, brick wall, sign above a door, "
            'text "OPEN 24h", text "Don\'t Panic", text "营业中", glow of the sign, frontal close-up, photograph'
        )
        assert as_description(CAPTION) == CAPTION.description + ' The text in the picture reads "Don\'t Panic", "营业中".'
        assert set(plain_captions(CAPTION)) == {"keywords", "description"}

    def test_a_complete_description_is_left_alone(self):
        whole = msgspec.structs.replace(CAPTION, text=["OPEN 24h"])
        assert as_description(whole) == CAPTION.description

    def test_quotes_inside_a_text_choose_other_quotes(self):
        assert quoted('say "hi"') == '“say "hi"”'

    @given(
        st.lists(st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=20), max_size=5), st.text(max_size=30)
    )
    def test_every_text_stands_in_both_styles(self, texts, description):
        answer = json.dumps(msgspec.to_builtins(CAPTION) | {"text": texts, "description": "x" + description.replace("\0", "")})
        try:
            caption = read_caption(answer)
        except AnswerError:
            return  # a control character in the description
        for plain in plain_captions(caption).values():
            assert all(piece in plain for piece in caption.text)


class TestPictures:
    @pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
    def test_every_format_becomes_one_that_servers_take(self, fmt):
        data = encode_picture(open_picture(encoded(picture(), fmt), side_px=1000))
        with Image.open(io.BytesIO(data)) as again:
            assert (again.format, again.size, again.mode) == ("PNG", (40, 24), "RGB")

    def test_large_ones_are_reduced_and_sent_as_jpeg(self):
        opened = open_picture(encoded(picture((2000, 1000)), "PNG"), side_px=900)
        assert opened.size == (900, 450)
        assert encode_picture(opened).startswith(b"\xff\xd8\xff")
        assert open_picture(encoded(picture((3000, 2)), "PNG"), side_px=100).size == (100, 1)

    def test_metadata_stays_here_and_orientation_is_applied(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        exif[0x010E] = "canary"
        data = encode_picture(open_picture(encoded(picture(), "JPEG", exif=exif), side_px=1000))
        assert b"canary" not in data
        with Image.open(io.BytesIO(data)) as again:
            assert again.size == (24, 40)

    @pytest.mark.parametrize("data", [b"", b"not a picture", encoded(picture((200, 200)), "PNG")[:300], b"\xff\xd8\xff"])
    def test_broken_ones_are_one_pictures_error(self, data):
        assert open_picture(data, side_px=100).reason is VisionReason.PICTURE


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        status, text = self.server.behave(body)
        reply = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:
        pass


def shown(body: dict) -> Image.Image:
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


@pytest.fixture
def serve() -> Iterator[Callable[..., ThreadingHTTPServer]]:
    started = []

    def start(behave) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.behave, server.seen, server.daemon_threads = behave, [], True
        started.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def server_config(server: ThreadingHTTPServer, **options) -> VisionServerConfig:
    quick = {"timeout_s": 5.0, "max_retries": 1, "retry_wait_s": 0.01} | options
    return VisionServerConfig(url=f"http://127.0.0.1:{server.server_address[1]}/v1", model="tiny-vl", **quick)


class TestServer:
    def test_captions_come_in_order_and_bad_pictures_are_not_sent(self, serve):
        def behave(body):
            return 200, json.dumps(msgspec.to_builtins(CAPTION) | {"subject": str(shown(body).width)})

        server = serve(behave)
        images = [encoded(picture((20 + i, 24)), "PNG") for i in range(9)]
        images[4] = b"broken"
        outcomes = caption_pictures(build_vision(server_config(server)), images)
        assert [outcome.subject for place, outcome in enumerate(outcomes) if place != 4] == [str(20 + i) for i in range(9) if i != 4]
        assert outcomes[4].reason is VisionReason.PICTURE
        assert len(server.seen) == 8
        assert server.seen[0]["response_format"]["json_schema"]["schema"] == CAPTION_SCHEMA
        assert server.seen[0]["messages"][0]["content"][1]["text"] == CAPTION_INSTRUCTION

    def test_each_failure_has_its_reason(self, serve):
        told = {20: (200, "no JSON"), 21: (200, ANSWER[:40]), 22: (503, ""), 23: (400, ""), 24: (200, "")}
        server = serve(lambda body: told[shown(body).width])
        images = [encoded(picture((width, 24)), "PNG") for width in told]
        outcomes = caption_pictures(build_vision(server_config(server)), images)
        assert [outcome.reason for outcome in outcomes] == ["garbage", "half_json", "server", "refused", "garbage"]

    def test_what_concerns_all_raises(self, serve):
        with pytest.raises(ChatError, match="404"):
            build_vision(server_config(serve(lambda body: (404, "")))).describe([encoded(picture(), "PNG")], "x")

    def test_a_missing_key_is_said_before_anything_is_sent(self, serve, monkeypatch):
        monkeypatch.delenv("NO_SUCH_KEY", raising=False)
        with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
            build_vision(server_config(serve(lambda body: (200, "")), api_key_env="NO_SUCH_KEY"))


class TestConfigs:
    def test_either_is_chosen_by_name(self):
        chosen = msgspec.convert({"use": "server", "url": "https://host", "model": "m"}, VisionConfig)
        assert chosen == VisionServerConfig(url="https://host", model="m")
        assert msgspec.convert({"use": "transformers", "path": "p"}, VisionConfig) == VisionTransformersConfig(path="p")

    @pytest.mark.parametrize(
        "wrong",
        [
            {"use": "oracle"},
            {"use": "server", "url": "http://example.org", "model": "m"},
            {"use": "transformers", "path": "p", "revision": "main"},
            {"use": "transformers", "path": "p", "device": "tpu"},
            {"use": "transformers", "path": "p", "trust_remote_code": True},
        ],
    )
    def test_wrong_ones_are_refused(self, wrong):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, VisionConfig)

    def test_the_code_holds_what_shapes_answers_and_nothing_else(self):
        one = VisionServerConfig(url="https://host", model="m")
        code = vision_code(one)
        same = {
            "timeout_s": 1.0,
            "deadline_s": 2.0,
            "concurrency": 3,
            "max_retries": 9,
            "max_cost": 5.0,
            "input_price": 1.0,
            "url": "https://b",
        }
        assert vision_code(recheck(msgspec.structs.replace(one, **same))) == code
        for change in ({"model": "n"}, {"temperature": 0.5}, {"seed": 1}, {"max_tokens": 5}, {"side_px": 64}):
            assert vision_code(msgspec.structs.replace(one, **change)) != code
        local = VisionTransformersConfig(path="p")
        assert vision_code(msgspec.structs.replace(local, dtype="float32")) != vision_code(local) != code

    @pytest.mark.parametrize("package", ["torch", "transformers"])
    def test_a_missing_package_is_one_line(self, package, monkeypatch):
        monkeypatch.delitem(sys.modules, "ernie_data.vision.transformers_model", raising=False)
        monkeypatch.setattr("sys.meta_path", [_Hidden(package), *sys.meta_path])
        monkeypatch.delitem(sys.modules, package, raising=False)
        with pytest.raises(MissingComponent, match=rf"`{package}`.*pip install 'ernie-data\[train\]'"):
            build_vision(VisionTransformersConfig(path="p"))


class _Hidden:
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
