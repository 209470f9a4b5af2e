"""What comes in over HTTP, checked: the part of OpenAI's chat completions that means something here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..decision import MAX_CHARACTERS

MAX_MESSAGES = 200
MAX_TOKENS = 32768
Text = Annotated[str, StringConstraints(max_length=8 * MAX_CHARACTERS)]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Part(BaseModel):
    """A piece of a message's content; only text is read."""

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]

    def plain(self) -> dict[str, str]:
        """As the chat template takes it."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(BaseModel):
    """include_usage: a last chunk with the tokens read and written."""

    include_usage: bool = False


class TextFormat(BaseModel):
    """The only format: text."""

    type: Literal["text"]


class ChatRequest(BaseModel):
    """OpenAI's request. Answers are greedy, so sampling parameters change nothing; what cannot be done is refused."""

    model_config = ConfigDict(extra="ignore")

    model: ModelName = "auto"
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    stop: Annotated[list[Any], Field(max_length=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def longest(self) -> int | None:
        """The most tokens to write."""
        return self.max_completion_tokens or self.max_tokens


class RouteRequest(BaseModel):
    """A question to be routed, not answered."""

    question: Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]


class RegisterRequest(BaseModel):
    """Where a specialist is: a folder on the server, or ORG/NAME[@REV] on the Hub."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    name: Annotated[str, StringConstraints(max_length=64)] | None = None
