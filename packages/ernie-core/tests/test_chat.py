"""The chat client against a local server that behaves as servers do, badly included."""

from __future__ import annotations

import base64
import json
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import msgspec
import pytest

from ernie_core.chat import ChatClient, ChatServer, FailureReason, Picture, user_request
from ernie_core.errors import ChatError, ConfigError

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
JPEG = b"\xff\xd8\xff\xe0" + bytes(8)
KEY = "canary-0123456789abcdef/+?"


class Server(ThreadingHTTPServer):
    """Answers with ``behave(handler, text of the request, number of times that text was asked)``."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, behave: Callable[[BaseHTTPRequestHandler, str, int], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = behave
        self.seen: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.released = threading.Event()  # set at the end, so that hanging handlers go

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address) -> None:
        pass  # clients that hang up are part of the tests


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        with self.server.lock:
            self.server.seen.append(body)
            self.server.headers.append(dict(self.headers))
            self.server.paths.append(self.path)
            self.server.asked[text] += 1
            number = self.server.asked[text]
        self.close_connection = True
        self.server.behave(self, text, number)

    def log_message(self, format: str, *args: object) -> None:
        pass


def send(handler, data: bytes, *, status: int = 200, length: int | None = None, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(data) if length is None else length))
    handler.end_headers()
    handler.wfile.write(data)


def completion(text: str | None, *, finish: str = "stop", usage: object = (10, 5), **message: object) -> bytes:
    if isinstance(usage, tuple):
        usage = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode()


def echo(handler, text: str, number: int) -> None:
    send(handler, completion(text.upper()))


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(behave=echo) -> Server:
        server = Server(behave)
        started.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server

    yield start
    for server in started:
        server.released.set()
        server.shutdown()
        server.server_close()


def client(server: Server | str, environ=None, **options) -> ChatClient:
    quick = {"timeout_s": 5.0, "deadline_s": 20.0, "retry_wait_s": 0.005, "max_retries": 3} | options
    url = server if isinstance(server, str) else server.url
    return ChatClient(ChatServer(url=url, model="tiny", **quick), environ=environ)


def ask_one(server, text="hello", **options):
    return client(server, **options).ask([user_request(text)])[0]


class TestAsking:
    def test_answers_stand_in_the_order_of_the_requests(self, serve):
        def slow_first(handler, text, number):
            time.sleep(0.1 if text == "r0" else 0.0)
            echo(handler, text, number)

        answers = client(serve(slow_first), concurrency=7).ask([user_request(f"r{i}") for i in range(30)])
        assert [answer.text for answer in answers] == [f"R{i}" for i in range(30)]
        assert all(answer.error is None and answer.tries == 1 for answer in answers)

    def test_concurrency_is_used_and_not_passed(self, serve):
        gate = threading.Barrier(4, timeout=10)
        running, most, lock = [0], [0], threading.Lock()

        def count(handler, text, number):
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            gate.wait()
            with lock:
                running[0] -= 1
            echo(handler, text, number)

        client(serve(count), concurrency=4).ask([user_request(str(i)) for i in range(12)])
        assert most[0] == 4

    def test_nothing_asked_gives_nothing(self):
        assert client("http://127.0.0.1:9/v1").ask([]) == []

    def test_the_body_is_that_of_the_api(self, serve):
        server = serve()
        schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
        client(server, seed=3, max_tokens=77).ask([user_request("see", [PNG, JPEG], system="be brief", schema=schema)])
        (body,) = server.seen
        assert server.paths == ["/v1/chat/completions"]
        assert (body["model"], body["seed"], body["max_tokens"], body["temperature"], body["stream"]) == ("tiny", 3, 77, 0.0, False)
        assert body["messages"][0] == {"role": "system", "content": "be brief"}
        urls = [part["image_url"]["url"] for part in body["messages"][1]["content"][:2]]
        assert [url.partition(",")[0] for url in urls] == ["data:image/png;base64", "data:image/jpeg;base64"]
        assert [base64.b64decode(url.partition(",")[2]) for url in urls] == [PNG, JPEG]
        assert body["messages"][1]["content"][2] == {"type": "text", "text": "see"}
        assert body["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}

    @pytest.mark.parametrize(("form", "sent"), [("json_object", {"type": "json_object"}), ("none", None)])
    def test_servers_without_schemas(self, serve, form, sent):
        server = serve()
        options = {"temperature": None, "seed": None, "max_tokens_field": "max_completion_tokens"}
        client(server, response_format=form, **options).ask([user_request("x", schema={"type": "object"})])
        assert server.seen[0].get("response_format") == sent
        assert "max_completion_tokens" in server.seen[0]
        assert not {"temperature", "seed", "max_tokens"} & set(server.seen[0])

    @pytest.mark.parametrize("text", ["\ud800 half a pair", "null \0 and \x1b[31m", "中文 “引号”", "x" * 300_000])
    def test_any_text_can_be_sent(self, serve, text):
        server = serve(lambda h, t, n: send(h, completion("seen")))
        assert ask_one(server, text).text == "seen"
        assert server.seen[0]["messages"][0]["content"] == text

    def test_a_picture_of_another_format_is_refused(self):
        with pytest.raises(ValueError, match="PNG or JPEG"):
            Picture(b"RIFF....WEBP")


class TestRetries:
    @pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503])
    def test_three_failures_and_then_the_answer(self, serve, status):
        answer = ask_one(serve(lambda h, t, n: send(h, b"busy", status=status) if n <= 3 else echo(h, t, n)))
        assert (answer.text, answer.tries) == ("HELLO", 4)

    def test_it_gives_up_and_says_why(self, serve):
        server = serve(lambda h, t, n: send(h, b"out of coffee", status=503))
        answer = ask_one(server)
        assert answer.error.reason is FailureReason.SERVER
        assert answer.tries == server.asked["hello"] == 4
        assert "503" in answer.error.detail
        assert "out of coffee" in answer.error.detail
        assert "4 tries" in answer.error.detail

    def test_retry_after_is_kept_to(self, serve):
        times = []

        def busy(handler, text, number):
            times.append(time.monotonic())
            send(handler, b"", status=429, Retry_After="0.3") if number == 1 else echo(handler, text, number)

        assert ask_one(serve(busy)).text == "HELLO"
        assert times[1] - times[0] >= 0.3

    @pytest.mark.parametrize("wish", ["86400", formatdate(time.time() + 86400, usegmt=True), "9" * 400])
    def test_retry_after_has_a_cap(self, serve, wish):
        server = serve(lambda h, t, n: send(h, b"", status=429, Retry_After=wish) if n == 1 else echo(h, t, n))
        assert ask_one(server, retry_wait_max_s=0.02).tries == 2

    @pytest.mark.parametrize("nonsense", ["soon", "-5", "nan", "", "Fri, 99 Foo 2020", "١٢"])
    def test_a_senseless_retry_after_is_passed_over(self, serve, nonsense):
        server = serve(lambda h, t, n: send(h, b"", status=503, Retry_After=nonsense) if n == 1 else echo(h, t, n))
        assert ask_one(server).tries == 2

    def test_the_deadline_ends_the_tries(self, serve):
        server = serve(lambda h, t, n: send(h, b"", status=503, Retry_After="30"))
        answer = ask_one(server, deadline_s=5.0, max_retries=50)
        assert answer.error.reason is FailureReason.SERVER
        assert answer.tries == 1  # waiting thirty seconds would pass it

    @pytest.mark.parametrize("status", [400, 413, 415, 422, 451])
    def test_other_refusals_are_not_repeated_and_cost_one_request(self, serve, status):
        server = serve(lambda h, t, n: send(h, b"too many pixels", status=status) if t == "bad" else echo(h, t, n))
        bad, good = client(server).ask([user_request("bad"), user_request("good")])
        assert (bad.error.reason, server.asked["bad"]) == (FailureReason.REFUSED, 1)
        assert "too many pixels" in bad.error.detail
        assert good.text == "GOOD"

    def test_waits_double_with_a_jitter_that_depends_on_the_request_alone(self):
        one, other = client("https://host/v1", retry_wait_s=1.0), client("https://host/v1", retry_wait_s=1.0)
        waits = [one._backoff(b"body", number) for number in range(1, 20)]
        assert waits == [other._backoff(b"body", number) for number in range(1, 20)]
        assert waits != [one._backoff(b"another", number) for number in range(1, 20)]
        for number, wait in enumerate(waits):
            most = min(60.0, 2.0**number)
            assert most / 2 < wait <= most


class TestMishaps:
    def test_a_server_that_never_answers(self, serve):
        answer = ask_one(serve(lambda h, t, n: h.server.released.wait(20)), timeout_s=0.2, max_retries=1)
        assert (answer.error.reason, answer.tries) == (FailureReason.TIMEOUT, 2)

    @pytest.mark.parametrize("part", ["header", "body"])
    def test_a_server_that_drips(self, serve, part):
        """Each byte comes within the time limit; all of them would not."""

        def drip(handler, text, number):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 100000\r\n\r\n" if part == "body" else b"X-A: "))
            while not handler.server.released.wait(0.05):
                handler.wfile.write(b"a")

        answer = ask_one(serve(drip), timeout_s=0.4, max_retries=0)
        assert answer.error.reason is FailureReason.TIMEOUT

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>login</html>",
            b"[]",
            b"{}",
            b'{"choices": []}',
            b'{"choices": [{}]}',
            b'{"choices": [{"message": {"content": 7}}]}',
            b"\xff\xfe\x00",
            b"[" * 100_000 + b"]" * 100_000,
            b'{"choices": NaN}',
            completion(""),
            completion(None),
            completion("  \n"),
            completion("half a pair: \ud800"),
        ],
    )
    def test_garbage_is_one_requests_error(self, serve, body):
        server = serve(lambda h, t, n: send(h, body) if t == "bad" else echo(h, t, n))
        bad, good = client(server).ask([user_request("bad"), user_request("good")])
        assert (bad.error.reason, bad.text) == (FailureReason.GARBAGE, "")
        assert good.text == "GOOD"

    def test_what_is_not_http_is_garbage(self, serve):
        assert ask_one(serve(lambda h, t, n: h.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n"))).error.reason is FailureReason.GARBAGE

    def test_a_body_that_breaks_off_is_asked_for_again(self, serve):
        whole = completion("fine")
        server = serve(lambda h, t, n: send(h, whole[: len(whole) // 2]) if n == 1 else send(h, whole))
        assert (ask_one(server).text, server.asked["hello"]) == ("fine", 2)
        answer = ask_one(serve(lambda h, t, n: send(h, whole[:-3])), max_retries=1)
        assert answer.error.reason is FailureReason.HALF_JSON

    def test_a_connection_dropped_in_the_body(self, serve):
        answer = ask_one(serve(lambda h, t, n: send(h, completion("fine")[:20], length=5000)), max_retries=1)
        assert (answer.error.reason, answer.tries) == (FailureReason.HALF_JSON, 2)
        assert "20 of 5000" in answer.error.detail

    def test_a_connection_dropped_before_the_reply(self, serve):
        answer = ask_one(serve(lambda h, t, n: None), max_retries=1)
        assert (answer.error.reason, answer.tries) == (FailureReason.SERVER, 2)

    def test_a_content_length_that_is_too_small_cuts_the_body(self, serve):
        answer = ask_one(serve(lambda h, t, n: send(h, completion("fine"), length=30)), max_retries=0)
        assert answer.error.reason is FailureReason.HALF_JSON

    @pytest.mark.parametrize("how", ["declared", "undeclared", "chunked", "negative chunk"])
    def test_a_huge_body_is_not_read(self, serve, how):
        sent = [0]

        def flood(handler, text, number):
            head = {"declared": b"Content-Length: 100000000000\r\n\r\n", "undeclared": b"\r\n"}
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + head.get(how, b"Transfer-Encoding: chunked\r\n\r\n"))
            handler.wfile.write({"chunked": b"FFFFFFFFFF\r\n", "negative chunk": b"-1\r\n"}.get(how, b""))
            while sent[0] < 400 << 20 and not handler.server.released.is_set():
                handler.wfile.write(bytes(1 << 20))
                sent[0] += 1 << 20

        answer = ask_one(serve(flood), max_response_bytes=1 << 20)
        assert answer.error.reason is (FailureReason.GARBAGE if how == "negative chunk" else FailureReason.TOO_LONG)
        assert sent[0] < 100 << 20

    def test_chunked_bodies_are_read(self, serve):
        def chunked(handler, text, number):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            data = completion("in pieces")
            for first in range(0, len(data), 7):
                piece = data[first : first + 7]
                handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            handler.wfile.write(b"0\r\n\r\n")

        assert ask_one(serve(chunked)).text == "in pieces"

    def test_an_answer_cut_by_the_token_limit_keeps_its_beginning(self, serve):
        answer = ask_one(serve(lambda h, t, n: send(h, completion('{"a": "b', finish="length"))), max_tokens=9)
        assert (answer.error.reason, answer.text) == (FailureReason.TOO_LONG, '{"a": "b')
        assert "max_tokens = 9" in answer.error.detail

    @pytest.mark.parametrize("body", [completion(None, refusal="I will not"), completion("x", finish="content_filter")])
    def test_a_model_that_refuses(self, serve, body):
        assert ask_one(serve(lambda h, t, n: send(h, body))).error.reason is FailureReason.REFUSED

    def test_a_body_larger_than_the_server_likes_gives_its_reason_not_a_broken_pipe(self, serve):
        """Some servers answer 413 and hang up while the client still sends."""
        import socket

        listener = socket.create_server(("127.0.0.1", 0))

        def refuse():
            while True:
                try:
                    wire, _ = listener.accept()
                except OSError:
                    return
                wire.recv(1000)
                wire.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge")
                wire.shutdown(socket.SHUT_WR)
                while wire.recv(1 << 20):
                    pass
                wire.close()

        threading.Thread(target=refuse, daemon=True).start()
        answer = ask_one(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "x" * 3_000_000)
        listener.close()
        assert answer.error.reason is FailureReason.REFUSED
        assert "413" in answer.error.detail


class TestFaultsOfAllRequests:
    @pytest.mark.parametrize("status", [401, 402, 403, 404, 405])
    def test_they_raise_and_keep_what_had_come(self, serve, status):
        server = serve(lambda h, t, n: echo(h, t, n) if t == "r0" else send(h, b'{"error": "no such model"}', status=status))
        with pytest.raises(ChatError) as caught:
            client(server, concurrency=1).ask([user_request(f"r{i}") for i in range(200)])
        assert caught.value.status == status
        assert "no such model" in str(caught.value)
        assert "tiny" in str(caught.value)
        assert len(caught.value.answers) == 200
        assert caught.value.answers[0].text == "R0"
        assert set(caught.value.answers[2:]) == {None}
        assert len(server.seen) <= 3

    def test_a_fault_ends_requests_that_hang_or_wait(self, serve):
        def behave(handler, text, number):
            if text == "hang":
                handler.server.released.wait(60)
            elif text == "wait":
                send(handler, b"", status=429, Retry_After="50")
            else:
                while len(handler.server.seen) < 3:
                    time.sleep(0.01)
                send(handler, b"", status=401)

        start = time.monotonic()
        with pytest.raises(ChatError, match="401"):
            client(serve(behave), timeout_s=60.0, deadline_s=100.0).ask([user_request(t) for t in ("hang", "wait", "bad")])
        assert time.monotonic() - start < 30  # both would take fifty seconds or more

    def test_a_server_that_is_not_there(self):
        with pytest.raises(ChatError, match=r"no connection.*3 tries.*check that the server runs"):
            ask_one("http://127.0.0.1:9/v1", max_retries=2)

    def test_tls_where_there_is_none(self, serve):
        server = serve()
        with pytest.raises(ChatError, match="TLS"):
            ask_one(server.url.replace("http:", "https:"))
        assert server.seen == []

    def test_a_redirect_to_another_host_is_not_followed_and_gets_no_key(self, serve):
        other = serve()
        server = serve(lambda h, t, n: send(h, b"", status=307, Location=other.url + "/chat/completions"))
        with pytest.raises(ChatError, match="another host"):
            ask_one(server, api_key_env="K", environ={"K": KEY})
        assert other.seen == []

    def test_a_redirect_within_the_host_is_followed(self, serve):
        def moved(handler, text, number):
            send(handler, b"", status=308, Location="/v2/chat") if handler.path != "/v2/chat" else echo(handler, text, number)

        assert ask_one(serve(moved)).text == "HELLO"

    @pytest.mark.parametrize(("status", "why"), [(307, "more than 3"), (302, "without its content")])
    def test_redirects_that_lead_nowhere(self, serve, status, why):
        server = serve(lambda h, t, n: send(h, b"", status=status, Location=h.path))
        with pytest.raises(ChatError, match=why):
            ask_one(server)


class TestLimits:
    def test_use_and_cost_are_counted(self, serve):
        server = serve(lambda h, t, n: send(h, completion("x", usage=None if t == "r0" else (1000, 100))))
        c = client(server, input_price=2.0, output_price=10.0)
        c.ask([user_request(f"r{i}") for i in range(3)])
        usage = c.usage
        assert (usage.requests, usage.input_tokens, usage.output_tokens, usage.unknown) == (3, 2000, 200, 1)
        assert usage.cost == pytest.approx(2 * (1000 * 2 + 100 * 10) / 1e6)
        assert usage.cost_at_most > usage.cost

    @pytest.mark.parametrize("usage", [{}, [], "many", {"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": True}])
    def test_a_senseless_count_is_unknown(self, serve, usage):
        c = client(serve(lambda h, t, n: send(h, completion("x", usage=usage))))
        assert c.ask([user_request("a")])[0].input_tokens is None
        assert c.usage.unknown == 1

    def test_the_cost_limit_is_never_passed(self, serve):
        server = serve(lambda h, t, n: send(h, completion("x", usage=(30, 100))))
        c = client(server, output_price=10_000.0, max_tokens=100, max_cost=10.0, concurrency=4)  # 1 per answer
        with pytest.raises(ChatError, match=r"10 is spent of max_cost = 10") as caught:
            c.ask([user_request(str(i)) for i in range(50)])
        assert len(server.seen) == 10
        assert c.usage.cost == pytest.approx(10.0)
        assert sum(answer is not None for answer in caught.value.answers) == 10

    def test_what_a_server_does_not_count_is_charged_with_its_upper_bound(self, serve):
        server = serve(lambda h, t, n: send(h, completion("x", usage=None)))
        c = client(server, output_price=10_000.0, max_tokens=100, max_cost=3.5)
        with pytest.raises(ChatError, match="3 of unknown cost"):
            c.ask([user_request(str(i)) for i in range(50)])
        assert len(server.seen) == 3

    def test_refused_requests_cost_nothing(self, serve):
        server = serve(lambda h, t, n: send(h, b"", status=503) if n < 4 else send(h, completion("x", usage=(0, 100))))
        c = client(server, output_price=10_000.0, max_tokens=100, max_cost=1.0)
        assert c.ask([user_request("a")])[0].tries == 4
        assert c.usage.cost == pytest.approx(1.0)
        assert c.usage.unknown == 0

    def test_requests_are_spaced(self, serve):
        times = []

        def note(handler, text, number):
            times.append(time.monotonic())
            echo(handler, text, number)

        client(serve(note), requests_per_minute=600, concurrency=8).ask([user_request(str(i)) for i in range(16)])
        assert max(times) - min(times) >= 0.5  # ten at once, six more at ten a second


class TestSecrets:
    @pytest.mark.parametrize("form", [str, quote, lambda key: base64.b64encode(key.encode()).decode(), lambda key: json.dumps(key)])
    @pytest.mark.parametrize("status", [200, 400, 401, 503])
    def test_a_server_that_sends_the_key_back(self, serve, form, status):
        seen = []

        def leak(handler, text, number):
            seen.append(handler.headers["Authorization"])
            told = form(KEY)
            send(handler, completion(f"the key is {told}") if status == 200 else f"bad key {told}".encode(), status=status, X_Key=told)

        c = client(serve(leak), api_key_env="SERVER_LOGIN", environ={"SERVER_LOGIN": KEY}, max_retries=1)
        try:
            shown = repr(c.ask([user_request("a")]))
        except ChatError as error:
            shown = "".join(traceback.format_exception(error)) + repr(error.answers)
        assert seen[0] == f"Bearer {KEY}"
        for secret in (KEY, quote(KEY), base64.b64encode(KEY.encode()).decode(), KEY[:20]):
            assert secret not in shown
        assert "[secret]" in shown

    def test_neither_the_client_nor_its_config_shows_the_key(self, capfd):
        c = client("https://host/v1", api_key_env="K", environ={"K": KEY})
        assert KEY not in repr(c) + repr(c.server) + msgspec.json.encode(c.server).decode() + str(c.usage)
        assert KEY not in "".join(capfd.readouterr())

    def test_other_secrets_in_a_body_are_hidden_too(self, serve):
        answer = ask_one(serve(lambda h, t, n: send(h, b'{"api_key": "abcdefghijkl", "hint": "hf_' + b"a" * 30 + b'"}', status=400)))
        assert "abcdefghijkl" not in answer.error.detail
        assert "hf_aaa" not in answer.error.detail

    def test_no_key_no_header(self, serve):
        server = serve()
        ask_one(server)
        assert "Authorization" not in server.headers[0]

    @pytest.mark.parametrize("value", [None, "", "   ", "two words-canary", "can\naryline", "schlüssel-canary"])
    def test_a_key_that_cannot_be_one_is_refused_unseen(self, value):
        with pytest.raises(ConfigError, match="`K`") as caught:
            client("https://host/v1", api_key_env="K", environ={} if value is None else {"K": value})
        assert "canary" not in str(caught.value)

    @pytest.mark.parametrize("pasted", ["sk-canary0123456789abcdef", "hf_canary0123456789abcd", "Bearer canary"])
    def test_a_key_in_the_config_is_refused_unseen(self, pasted):
        with pytest.raises(ValueError, match="name of an environment variable") as caught:
            ChatServer(url="https://host/v1", model="m", api_key_env=pasted)
        assert "canary" not in str(caught.value)


class TestAddresses:
    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("ftp://host/v1", "https://"),
            ("file:///etc/passwd", "https://"),
            ("host/v1", "https://"),
            ("https://user:canary@host/v1", "credentials"),
            ("https://canary@host/v1", "credentials"),
            ("https://host/v1?key=canary", "neither"),
            ("https://host/v1#canary", "neither"),
            ("https:///v1", "no host"),
            ("https://host:port/v1", "malformed"),
            ("https://[::1/v1", "malformed"),
            ("https://ho st/v1", "spaces"),
            ("https://host/v1\r\nX: canary", "control"),
            ("http://example.org/v1", "allow_http"),
            ("http://127.0.0.1.example.org/v1", "allow_http"),
            ("http://192.168.0.7:8000/v1", "allow_http"),
            ("http://0x7f.1/v1", "allow_http"),
        ],
    )
    def test_refused(self, url, why):
        with pytest.raises(ValueError, match=why) as caught:
            ChatServer(url=url, model="m")
        assert "canary" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "endpoint"),
        [
            ("http://localhost:8000", "http://localhost:8000/v1/chat/completions"),
            ("http://[::1]:8000/v1/", "http://[::1]:8000/v1/chat/completions"),
            ("http://127.3.2.1/api", "http://127.3.2.1/api/chat/completions"),
            ("https://host/v1/chat/completions", "https://host/v1/chat/completions"),
        ],
    )
    def test_accepted(self, url, endpoint):
        assert client(url)._url.geturl() == endpoint

    def test_plain_http_on_demand(self):
        asked = ChatClient(ChatServer(url="http://10.0.0.5:8000/v1", model="m", allow_http=True))
        assert asked._url.geturl() == "http://10.0.0.5:8000/v1/chat/completions"

    @pytest.mark.parametrize(
        ("options", "why"), [({"max_cost": 1.0}, "input_price"), ({"model": " "}, "model"), ({"concurrency": 0}, "concurrency")]
    )
    def test_other_wrong_options(self, options, why):
        with pytest.raises((ValueError, ConfigError), match=why):
            ChatClient(ChatServer(**({"url": "https://host", "model": "m"} | options)))
