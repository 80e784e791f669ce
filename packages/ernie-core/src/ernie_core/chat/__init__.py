"""A client for OpenAI-compatible chat servers (vLLM, SGLang, hosted ones), for text and pictures. Light: the standard library and msgspec.

.. code-block:: python

    client = ChatClient(ChatServer(url="http://127.0.0.1:8000/v1", model="my-model"))
    answers = client.ask([user_request("What is on this picture?", [png])])

What concerns one request comes back as its answer's ``error``; what every request would meet, and a passed cost limit, raises ``ChatError``.
"""

from ernie_core.chat.client import ChatClient
from ernie_core.chat.config import ChatServer
from ernie_core.chat.json_answer import parse_json_answer
from ernie_core.chat.limits import Usage
from ernie_core.chat.messages import ChatAnswer, ChatRequest, Failure, FailureReason, Message, Picture, user_request
from ernie_core.errors import AnswerError, ChatError

__all__ = [
    "AnswerError",
    "ChatAnswer",
    "ChatClient",
    "ChatError",
    "ChatRequest",
    "ChatServer",
    "Failure",
    "FailureReason",
    "Message",
    "Picture",
    "Usage",
    "parse_json_answer",
    "user_request",
]
