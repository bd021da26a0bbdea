"""What the API takes and gives, as models for the OpenAPI document.

Proxied bodies are read by `proxy.call`, which keeps every byte and costs a tenth of pydantic; these models
describe them, they do not parse them. Fields beyond these are allowed and go on to the backend untouched.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_CREATED = 1_700_000_000  # `created` has to be an integer; a tier has no birthday


Share = Annotated[float, Field(ge=0, le=1)]
# `proxy.api_document` puts the strategies of the policy in force and the known modes in their place.
Strategy = Annotated[str, Field(json_schema_extra={"x-upshift": "strategy"})]
StreamMode = Annotated[str, Field(json_schema_extra={"x-upshift": "stream_mode"})]
Text = Annotated[str, Field(min_length=1)]


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str | None
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """What every error looks like."""

    error: ErrorBody


class ModelCard(BaseModel):
    """One entry of `/v1/models`."""

    id: str
    object: Literal["model"] = "model"
    created: int = _CREATED
    owned_by: str


class ModelList(BaseModel):
    """`/v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class UpshiftOptions(BaseModel):
    """How one request is to be routed."""

    model_config = ConfigDict(extra="forbid")

    strategy: Literal["cascade", "evaluator", "mf", "difficulty", "random"] | None = None
    threshold: float | None = Field(
        None, ge=0, le=1, description="shift up iff P(strong should answer) >= it"
    )
    stream_mode: Literal["hold", "early", "race"] | None = None


class ChatMessage(_Open):
    """One turn of a conversation."""

    role: str
    content: str | list[dict[str, Any]] | None = None


class _Generation(_Open):
    model: str = Field(
        min_length=1, description="`upshift`, a strategy, a tier's name, or a backend's model id"
    )
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    n: int | None = Field(None, ge=1, le=128)
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    upshift: UpshiftOptions | None = None


class ChatCompletionRequest(_Generation):
    """OpenAI's chat completion request."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None


class CompletionRequest(_Generation):
    """OpenAI's (legacy) completion request."""

    prompt: str | Annotated[list[str | int | list[int]], Field(min_length=1)]


class EmbeddingRequest(_Open):
    """OpenAI's embeddings request."""

    model: str = Field(min_length=1)
    input: Text | Annotated[list[Any], Field(min_length=1)]


class InputItem(_Open):
    """A message. Other items (function calls and their outputs, reasoning) are described by OpenAI."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText]


class InputText(_Open):
    """Text inside a message."""

    type: Literal["input_text", "output_text"]
    text: str


class ResponseFormat(_Open):
    """The form of the answer's text."""

    type: Literal["text", "json_object", "json_schema"]


class ResponseText(_Open):
    """How the answer is to be written."""

    format: ResponseFormat | None = None


class ResponseTool(_Open):
    """A function the model may call."""

    type: Literal["function", "custom"]
    name: str


class ResponseRequest(_Open):
    """OpenAI's Responses request."""

    model: str = Field(min_length=1)
    input: str | Annotated[list[InputItem], Field(min_length=1)]
    instructions: str | None = None
    stream: bool | None = None
    tools: list[ResponseTool] | None = None
    text: ResponseText | None = None
    max_output_tokens: int | None = None
    store: Literal[False] | None = Field(
        None, description="true only with a pinned tier that has the Responses API"
    )
    background: Literal[False] | None = Field(
        None, description="true only with a pinned tier that has the Responses API"
    )
    previous_response_id: None = Field(
        None, description="a string only with a pinned tier that has the Responses API"
    )


class Completion(_Open):
    """OpenAI's answer; `upshift` tells how a routed one came about."""

    id: str
    object: str
    choices: list[dict[str, Any]]
    model: str
    upshift: dict[str, Any] | None = None


class EmbeddingList(_Open):
    """OpenAI's answer to an embeddings request."""

    object: str
    data: list[dict[str, Any]]


class ResponseObject(_Open):
    """OpenAI's response object."""

    id: str
    object: str
    status: str | None = None
    output: list[dict[str, Any]] | None = None


class RouteRequest(_Open):
    """A prompt to route without an answer: `prompt`, or `messages` as for chat completions."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "anyOf": [
                {"required": ["prompt"], "properties": {"prompt": {"type": "string"}}},
                {"required": ["messages"], "properties": {"messages": {"type": "array"}}},
            ]
        },
    )

    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    model: Text | None = None
    strategy: Strategy | None = None
    threshold: Share | None = None


class RouteAnswer(BaseModel):
    """Where the prompt would go, and why. It goes to the last tier at once iff `route_score` is at least
    `route_cut`; a first tier's answer is kept iff P(adequate) is above `answer_cut`; null: not looked at."""

    decision: str
    reason: str
    tier: str
    checked: bool
    policy: str
    strategy: str | None = None
    threshold: float | None = None
    route_score: float | None = None
    difficulty: float | None = None
    route_cut: float | None = None
    answer_cut: float | None = None


class FeedbackRequest(BaseModel):
    """What a client says of an answer: its `x-request-id`, and how good it was."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "oneOf": [
                {"required": ["rating"], "properties": {"rating": {"type": "number"}}},
                {"required": ["quality"], "properties": {"quality": {"type": "number"}}},
            ]
        },
    )

    request_id: str = Field(min_length=1)
    rating: Share | None = None
    quality: Share | None = None
    comment: Text | None = None


class FeedbackAnswer(BaseModel):
    """What was stored, and how the answer came about."""

    object: str
    request_id: str
    quality: float
    decision: str


class ChatRequest(_Open):
    """One prompt. Unknown fields go on to the backend as they are."""

    prompt: str = Field(min_length=1)
    system: str | None = None
    model: Text | None = None
    strategy: Strategy | None = None
    threshold: Share | None = None
    max_tokens: int | None = Field(None, ge=1)
    upshift: UpshiftOptions | None = None
    messages: None = None
    stream: Literal[False] | None = None
    n: Literal[1] | None = None


class ChatAnswer(BaseModel):
    """The answer and how it came about. `score` is P(adequate) of the weak answer; null: not asked for."""

    model: str
    score: float | None
    text: str
    tier: str
    escalated: bool
    route_score: float | None
    reason: str
    usage: dict[str, Any]
    cost_usd: float
    latency_ms: float
    request_id: str
