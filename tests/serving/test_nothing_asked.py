"""Fields that ask for nothing are accepted, an answer can be sent back as it came, and faults are the protocol's."""

import json

import pytest
from serving.test_server import CHAT, call
from support.fake_server import address, client, model_folder, served  # noqa: F401

from keylm.serving import protocol
from keylm.serving.streams import ESCAPED

NULLS = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "metadata",
    "modalities",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
]
EMPTY = [
    {"tools": []},
    {"tool_choice": "none"},
    {"modalities": ["text"]},
    {"functions": [], "function_call": "none"},
    {"stop": []},
    {"logit_bias": {}},
    {"metadata": {}},
    {"response_format": {"type": "text", "json_schema": None}},
]


@pytest.mark.parametrize("given", [*({name: None} for name in NULLS), *EMPTY], ids=str)
def test_what_asks_for_nothing_is_accepted(address, given):
    plain = {**CHAT, "max_tokens": 4, "temperature": 0, "seed": 1}
    expected, found = (call(address, "/v1/chat/completions", body) for body in (plain, {**plain, **given}))
    assert found[0] == 200, found
    if not set(given) & set(plain):
        texts = [json.loads(each[2])["choices"][0]["message"] for each in (expected, found)]
        assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "name",
    [
        "best_of",
        "echo",
        "logit_bias",
        "logprobs",
        "max_tokens",
        "n",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "suffix",
        "top_p",
        "user",
    ],
)
def test_null_in_a_completion_is_accepted(address, name):
    assert call(address, "/v1/completions", {"model": "tiny", "prompt": "x", name: None})[0] == 200


def test_an_answer_can_be_sent_back_as_it_came(client, address):
    answer = client.chat.completions.create(**CHAT, max_tokens=4).choices[0].message
    as_dict = {**answer.model_dump(), "reasoning_content": None, "annotations": [], "tool_calls": None}
    for each in (answer, as_dict, answer.to_dict()):
        turns = [*CHAT["messages"], each, {"role": "user", "content": "y"}]
        assert client.chat.completions.create(model="tiny", messages=turns, max_tokens=2).choices


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"stop": ""}, "stop", "'stop': expected string of minimum length 1, but got one of length 0"),
        ({"stop": ["x"] * 17}, "stop", "'stop': expected array of maximum length 16, but got one of length 17"),
        ({"stop": [""]}, "stop", "'stop[0]': expected string of minimum length 1"),
        ({"stop": 5}, "stop", "'stop': expected a string or an array, but got an integer instead"),
        ({"temperature": 3}, "temperature", "'temperature': expected a value <= 2"),
        ({"temperature": "hot"}, "temperature", "expected a number, but got a string instead"),
        ({"temperature": True}, "temperature", "expected a number, but got a boolean instead"),
        ({"n": 1.5}, "n", "expected an integer, but got a number"),
        ({"stream": "yes"}, "stream", "expected a boolean, but got a string"),
        ({"seed": 2**64}, "seed", "'seed': expected"),
        ({"tools": [{"type": "function"}]}, "tools", "expected array of maximum length 0"),
        ({"modalities": ["audio"]}, "modalities", "'modalities[0]': supported values are 'text'"),
        ({"messages": []}, "messages", "expected array of minimum length 1"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages", "'messages[0].role': supported values are"),
        ({"messages": [{"role": "user"}]}, "messages", "Missing required parameter: 'messages[0].content'"),
        ({"messages": [{"role": "user", "content": None}]}, "messages", "expected a string or an array, but got null"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "supported values"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "expected a value <= 100"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only allowed with stream"),
        ({"top_logprobs": 1}, "top_logprobs", "only allowed with logprobs"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "must be there"),
        ({"response_format": "json"}, "response_format", "expected an object, but got a string"),
        ({"logit_bias": {"5": float("nan")}}, "logit_bias", "finite number"),
        ({"invented": 1}, "invented", "Unrecognized request argument supplied: invented"),
    ],
)
def test_faults_are_in_the_protocols_words(address, given, param, words):
    status, _, answer = call(address, "/v1/chat/completions", {**CHAT, **given})
    error = json.loads(answer)["error"]
    assert (status, error["param"]) == (400, param), error
    assert words in error["message"]
    assert not any(word in error["message"] for word in ("Input should", "Value error", "a valid ", "constrained"))


def test_every_kind_of_prompt_fault_names_the_prompt(address):
    for prompt in (7, [], [[]], [1, "x"], {}, None, [-1], "long " * 400):
        status, _, answer = call(address, "/v1/completions", {"model": "tiny", "prompt": prompt, "max_tokens": 20})
        assert (status, json.loads(answer)["error"]["param"]) == (400, "prompt"), answer


def test_a_data_line_is_one_line_for_every_client():
    text = "".join(map(chr, [*range(0x20), 0x85, 0x2028, 0x2029, 0xFEFF])) + "é"
    chunk = protocol.Delta(content=text).model_dump_json().translate(ESCAPED)
    assert len(chunk.splitlines()) == 1
    assert json.loads(chunk)["content"] == text
