"""The calls that ask a model, and those about releases that wait for people: a part of `ForgeClient`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Unpack
from urllib.parse import quote

from forge_pipeline.client import replies, streams, transfers
from forge_pipeline.client.connection import Connection
from forge_pipeline.client.start_body import ChatOptions, GenerateOptions

StrPath = str | os.PathLike[str]


class Asking:
    """Over the connection that `ForgeClient` makes."""

    _server: Connection

    def generate(self, model_id: int, prompt: str, **options: Unpack[GenerateOptions]) -> replies.Generated:
        body = {"model_id": model_id, "prompt": prompt, **options}
        return self._server.ask(replies.Generated, "POST", "/api/playground/generate", json=body)

    def generate_stream(self, model_id: int, prompt: str, **options: Unpack[GenerateOptions]) -> Iterator[str]:
        """The text, piece by piece; leaving the loop early ends the generation."""
        body = {"model_id": model_id, "prompt": prompt, **options, "stream": True}
        with self._server.stream("POST", "/api/playground/generate", json=body) as reply:
            for event in streams.events(reply):
                if event.name == "done":
                    return
                yield str(event.json()["text"])

    def chat(self, model: str, messages: list[dict[str, str]], **options: Unpack[ChatOptions]) -> replies.Chat:
        """One answer in a conversation; `model` is a registry id as text or a name, with ``:base`` its base model."""
        body = {"model": model, "messages": messages, **options}
        return self._server.ask(replies.Chat, "POST", "/v1/chat/completions", json=body)

    def chat_stream(self, model: str, messages: list[dict[str, str]], **options: Unpack[ChatOptions]) -> Iterator[str]:
        """The same, piece by piece."""
        body = {"model": model, "messages": messages, **options, "stream": True}
        with self._server.stream("POST", "/v1/chat/completions", json=body) as reply:
            for event in streams.events(reply):
                if event.data == "[DONE]":
                    return
                for choice in event.json()["choices"]:
                    if piece := choice["delta"].get("content"):
                        yield str(piece)

    def served_models(self) -> list[replies.ServedModel]:
        """What `chat` takes as `model`."""
        return self._server.ask(replies.ServedModels, "GET", "/v1/models").data

    def served_model(self, model: str) -> replies.ServedModel:
        return self._server.ask(replies.ServedModel, "GET", at("/v1/models", model))

    def approvals(self, *, state: Literal["open", "all"] = "open") -> replies.Approvals:
        return self._server.ask(replies.Approvals, "GET", "/api/approvals", params={"state": state})

    def approval(self, request_id: str) -> replies.Approval:
        return self._server.ask(replies.Approval, "GET", at("/api/approvals", request_id))

    def decide(
        self, request_id: str, decision: Literal["granted", "rejected", "revoked"], *, model: str, reason: str
    ) -> replies.Approval:
        """Decide in the name of the API key; `model` is the digest of what was looked at."""
        body = {"decision": decision, "reason": reason, "model": model}
        return self._server.ask(replies.Approval, "POST", at("/api/approvals", request_id), json=body)

    def approval_bundle(self, request_id: str, to: StrPath) -> Path:
        """Write the bundle that a request is about, as a ZIP; `forge verify` checks it against its own manifest.

        Raises:
            IntegrityError: The bytes are not what the server's digest says; nothing was kept.
        """
        with self._server.stream("GET", at("/api/approvals", request_id, "bundle")) as reply:
            return transfers.keep(reply, Path(to))


def at(*parts: object) -> str:
    """A path of which all but the first part are quoted whole."""
    return "/".join([str(parts[0]), *(quote(str(part), safe="") for part in parts[1:])])
