"""Language models that rewrite captions: the protocol, the instruction, and retries under the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ernie_core.api import MissingComponent
from ernie_core.chat import AnswerError, ChatClient, FailureReason, parse_json_answer, user_request
from ernie_data.rewriting.contract import Broken, RewriteReason, Rewritten, Sealed, opened, sealed
from ernie_data.rewriting.entries import ModelConfig, RewriteServerConfig

INSTRUCTION = """\
Rewrite this description of a picture as prompts for a text-to-image model, in the language of the description. Answer with one JSON object and nothing else.
Its keys:
"keywords": the subject and the most important features as short phrases with commas between them.
"request": what a person would ask for in everyday language, in one to three sentences.
"instruction": what is to be done, in the imperative, step by step.
"composition": one detailed paragraph: subject, details, place, light, style.
Marks such as [[Q1]] and [[N1]] stand for writing in the picture and for numbers. Each of them must stand in each of the four texts exactly once, unchanged.
Add nothing that the description does not say.

Description:
"""


def _schema() -> Mapping[str, Any]:
    _, components = msgspec.json.schema_components([Rewritten])
    inner = components["Rewritten"]
    return {key: inner[key] for key in ("type", "properties", "required", "additionalProperties")}


SCHEMA = _schema()


class LanguageModel(Protocol):
    def answers(self, prompts: Sequence[str]) -> list[str | Broken]:
        """The model's answer to each prompt, in order; a value where one has none.

        Raises:
            ErnieError: what every other prompt would meet too.
        """
        ...


class ServerModel:
    def __init__(self, client: ChatClient) -> None:
        self._client = client

    def answers(self, prompts: Sequence[str]) -> list[str | Broken]:
        answers = self._client.ask([user_request(prompt, schema=SCHEMA) for prompt in prompts])
        return [answer.text if answer.error is None else Broken(_reason(answer.error.reason), answer.error.detail) for answer in answers]


def _reason(reason: FailureReason) -> RewriteReason:
    named = {
        FailureReason.TIMEOUT: RewriteReason.TIMEOUT,
        FailureReason.TOO_LONG: RewriteReason.TOO_LONG,
        FailureReason.GARBAGE: RewriteReason.GARBAGE,
        FailureReason.HALF_JSON: RewriteReason.GARBAGE,
    }
    return named.get(reason, RewriteReason.SERVER)


def build_model(config: ModelConfig) -> LanguageModel:
    """
    Raises:
        ConfigError: a wrong config, or an API key that is not set.
        MissingComponent: torch or transformers is not installed.
        WeightsError: the model cannot be loaded.
    """
    if isinstance(config, RewriteServerConfig):
        return ServerModel(ChatClient(config))
    try:
        from ernie_data.rewriting.transformers_model import build_transformers
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "ernie_data":
            raise
        raise MissingComponent(
            f"the rewriting backend `transformers` needs the package `{package}`, which is not installed: pip install 'ernie-data[train]'"
        ) from None
    return build_transformers(config)


def backend_code(config: ModelConfig) -> str:
    """All that shapes the answers, for the name of a unit of work."""
    if isinstance(config, RewriteServerConfig):
        parts: list[Any] = ["server", config.model, config.max_tokens, config.temperature, config.seed, config.response_format]
    else:
        parts = ["transformers", config.path, config.revision, config.dtype, config.max_new_tokens]
    return " ".join(map(str, parts))


def ask(model: LanguageModel, captions: Sequence[str], *, retries: int, max_characters: int) -> list[tuple[dict[str, str], bool] | Broken]:
    """Styles of each caption and whether they were repaired, or why there are none."""
    outcomes: list[tuple[dict[str, str], bool] | Broken] = [Broken(RewriteReason.TOO_LONG, "the caption")] * len(captions)
    seals = [sealed(caption) for caption in captions]
    waiting = [n for n, caption in enumerate(captions) if len(caption) <= max_characters]
    remarks = [""] * len(captions)
    for attempt in range(retries + 1):
        if not waiting:
            break
        answers = model.answers([INSTRUCTION + seals[n].text + remarks[n] for n in waiting])
        for n, answer in zip(waiting, answers, strict=True):
            outcomes[n] = _judged(answer, seals[n], max_characters=max_characters, repair=attempt == retries)
        failed = {n: outcome for n in waiting if isinstance(outcome := outcomes[n], Broken)}
        remarks = [f"\n\nYour last answer was refused: {failed[n].detail}" if n in failed else "" for n in range(len(captions))]
        waiting = [n for n, why in failed.items() if why.reason not in (RewriteReason.SERVER, RewriteReason.TIMEOUT)]
    return outcomes


def _judged(answer: str | Broken, seal: Sealed, *, max_characters: int, repair: bool) -> tuple[dict[str, str], bool] | Broken:
    if isinstance(answer, Broken):
        return answer
    try:
        return opened(parse_json_answer(answer, Rewritten), seal, max_characters=max_characters, repair=repair)
    except AnswerError as error:
        return Broken(RewriteReason.GARBAGE, str(error))
    except Broken as broken:
        return broken
