"""The types of HTTP requests and answers: OpenAI's completions and chat, their errors, and keylm's suggestions.

Requests are strict: a field that is not known, or that this server cannot honour, is an error, never ignored. OpenAI's
fields that change no answer are accepted too (user, store, metadata, …). `top_k`, `min_p`,
`repetition_penalty` and `ignore_eos` are extensions, named as in other servers.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(max_length=1_000_000)]
Stop = Annotated[str, Field(min_length=1, max_length=1_000)]
MOST_CHOICES, MOST_PROMPTS = 16, 64
Nothing = Annotated[list[Any], Field(max_length=0)] | None
"""A field that asks for nothing: null or an empty list."""


class Body(BaseModel):
    """A request's body; strict, nothing unknown."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Body):
    """What a stream contains besides text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Generation(Body):
    """What completions and chat have in common; defaults are OpenAI's."""

    model: Annotated[str, Field(max_length=500)]
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only allowed with stream = true")
        return self


class CompletionRequest(Generation):
    """POST /v1/completions."""

    prompt: (
        Text
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class Message(Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: str | None = None
    refusal: None = None
    reasoning_content: None = None
    tool_calls: Nothing = None
    annotations: Nothing = None
    audio: None = None
    function_call: None = None

    def plain(self) -> dict[str, str]:
        """Return the turn as chat templates take it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class JsonSchema(Body):
    """A JSON schema and its name."""

    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Body):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def schema_of_answers(self) -> dict[str, Any] | None:
        """Return the schema that answers must satisfy, if any."""
        if self.type == "text":
            return None
        given = self.json_schema.schema_ if self.json_schema else None
        return {"type": "object"} if given is None else given

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('response_format: json_schema belongs to type = "json_schema", and must be there then')
        return self


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None
    tools: Nothing = None
    tool_choice: Literal["none"] | None = None
    functions: Nothing = None
    function_call: Literal["none"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    audio: None = None
    prediction: None = None
    reasoning_effort: Literal["none"] | None = None
    verbosity: None = None
    web_search_options: None = None

    @model_validator(mode="after")
    def _check_top_logprobs(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only allowed with logprobs = true")
        return self


class SuggestRequest(Body):
    """POST /v1/suggest: what a keyboard requests after each key."""

    text: Text
    """All text before the cursor, including the word being typed."""
    k: Annotated[int, Field(ge=1, le=10)] = 3
    correct: bool = True
    """Whether to correct the typed word."""
    model: Annotated[str, Field(max_length=500)] | None = None


class Cached(BaseModel):
    """A prompt's tokens that were already cached."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens of a request; a prompt counts once, whatever n."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: Cached


Reason = Literal["stop", "length"]


class GeneratedAnswer(BaseModel):
    """The fields that every answer and chunk starts with."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str


class LegacyLogprobs(BaseModel):
    """Log-probabilities of a completion, in columns; null for a token with nothing before it."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One completion, or a part of it in a stream."""

    index: int
    text: str
    logprobs: LegacyLogprobs | None = None
    finish_reason: Reason | None


class Completion(GeneratedAnswer):
    """The answer of /v1/completions; in a stream each chunk."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(BaseModel):
    """An alternative token at this position."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of an answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of an answer."""

    content: list[TokenLogprob]
    refusal: None = None


class AnswerMessage(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Reason


class ChatCompletion(GeneratedAnswer):
    """The answer of /v1/chat/completions."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage


class Delta(BaseModel):
    """What a chunk adds to an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None

    @model_serializer
    def _without_nulls(self) -> dict[str, str]:
        return {name: value for name, value in (("role", self.role), ("content", self.content)) if value is not None}


class ChunkChoice(BaseModel):
    """A part of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: Reason | None = None


class ChatChunk(GeneratedAnswer):
    """A chunk of a stream of /v1/chat/completions."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChunkChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "keylm"
    max_model_len: int


class ModelList(BaseModel):
    """The served models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class SuggestedWord(BaseModel):
    """A word and its probability after the text."""

    word: str
    probability: float


class Suggestions(BaseModel):
    """What a keyboard shows."""

    partial: str
    """The word that is being typed; empty between words."""
    suggestions: list[SuggestedWord]
    correction: str | None
    """The replacement for the typed word once it is complete; null to keep it."""
    milliseconds: float


class Health(BaseModel):
    """Whether requests are answered."""

    status: Literal["ok"] = "ok"
    engine: str
    active: int
    waiting: int


class ErrorDetail(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """Every answer of 4xx or 5xx."""

    error: ErrorDetail
