"""JSON schemas: what they may cost, which are refused, and that answers end."""

import concurrent.futures
import json
import time

import pytest
from serving.test_server import CHAT, call, fault
from support.fake_server import address, model_folder, prompts, served, with_rules  # noqa: F401

from keylm.base.errors import KeylmError
from keylm.serving.finite import has_finite_value
from keylm.serving.grammar import KEPT, GrammarFault, Grammars, JsonGrammar

MANY, TOO_MANY = (
    {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(m)}} for m in (2000, 3000)
)
COSTLY = [
    TOO_MANY,
    {"type": "integer", "multipleOf": 99991},
    {"type": "integer", "multipleOf": 999983},
    {"type": "integer", "multipleOf": 10**9 + 7},
    {"type": "number", "multipleOf": 999.983},
    {"type": "integer", "allOf": [{"multipleOf": prime} for prime in (101, 103, 107)]},
    {"type": "object", "properties": {f"p{n}": {"type": "integer", "multipleOf": 9973 + n} for n in range(40)}},
]
LARGE = [
    MANY,
    {"type": "object", "properties": {f"p{n}": {"type": "string", "pattern": "^[a-z]{1,90}$"} for n in range(1000)}},
    {"type": "object", "properties": {f"p{n}": {"enum": [f"{n}v{m}" for m in range(20)]} for n in range(300)}},
    {"type": "integer", "multipleOf": 100},
    {"type": "number", "multipleOf": 0.01},
    {"type": "number", "allOf": [{"multipleOf": 9973}, {"multipleOf": 0.01}]},
]
ENDLESS = [
    {"$ref": "#"},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    {"type": "object", "additionalProperties": {"$ref": "#"}, "required": ["a"]},
    {"type": "object", "additionalProperties": {"$ref": "#"}, "minProperties": 1},
    {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    {"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1},
    {"anyOf": [{"$ref": "#"}, {"type": "array", "items": {"$ref": "#"}, "minItems": 2}]},
    {"allOf": [{"type": "string"}, {"$ref": "#"}]},
]
ENDING = [
    {"type": "object", "properties": {"a": {"$ref": "#"}}},
    {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    {"type": "array", "items": {"$ref": "#"}},
    {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}, "minItems": 2}]},
    {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b~1"}, "b/": {"type": "string"}}},
]


def asking(schema, **settings):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return {**CHAT, "max_tokens": 20, "response_format": form, **settings}


@pytest.fixture(scope="module")
def grammars(prompts):
    return Grammars(prompts.tokenizer, 400, 2)


@pytest.mark.parametrize("schema", COSTLY)
def test_a_costly_schema_is_refused_and_named(grammars, schema):
    begun = time.monotonic()
    with pytest.raises(KeylmError, match="beyond this server's limits"):
        grammars.json(schema)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("schema", LARGE)
def test_a_large_schema_is_built_once(grammars, schema):
    assert grammars.json(schema)._matcher is grammars.json(dict(schema))._matcher


def test_few_schemas_are_kept_and_texts_do_not_share_a_place(grammars):
    for n in range(KEPT + 5):
        grammars.json({"const": n})
    assert len(grammars._kept) == KEPT
    assert grammars.known({"const": 0}) is None
    whole = grammars.json({"type": "object"})
    [opening] = [n for n in range(400) if grammars._tokenizer.decode_str([n]) == "{"]
    first, second = whole.copy(), whole.copy()
    first.accept(opening)
    second.accept(opening)
    with pytest.raises(GrammarFault):
        whole.copy().accept(5 if opening != 5 else 6)
    assert grammars.known({"type": "object"}) is None  # what failed is built anew


def test_a_schema_longer_than_the_limit_is_refused(address):
    status, _, answer = call(address, "/v1/chat/completions", asking({"enum": ["x" * 100_001]}))
    assert (status, json.loads(answer)["error"]["param"]) == (400, "response_format")
    assert "accepted: 100,000" in json.loads(answer)["error"]["message"]


@pytest.mark.parametrize("schema", ENDLESS)
def test_a_schema_without_a_finite_value_is_refused(address, schema):
    assert not has_finite_value(schema)
    assert fault(address, "/v1/chat/completions", asking(schema)) == (400, "invalid_value")


@pytest.mark.parametrize("schema", ENDING)
def test_references_that_end_are_accepted(grammars, schema):
    assert has_finite_value(schema)
    assert isinstance(grammars.json(schema), JsonGrammar)


def test_following_references_is_bounded():
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(2000)} | {"d2000": {"type": "null"}}
    assert has_finite_value({"$ref": "#/$defs/d0", "$defs": chain})
    wide = {"anyOf": [{"$ref": f"#/anyOf/{n}"} for n in range(3000)]}
    assert not has_finite_value(wide)
    assert has_finite_value({"$ref": f"#/anyOf/{'9' * 5000}", "anyOf": [{"type": "null"}]})


def test_health_answers_while_a_schema_is_built(address):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(call, address, "/v1/chat/completions", asking(MANY, n=16)) for _ in range(2)]
        asked += [pool.submit(call, address, "/v1/chat/completions", asking(each, n=16)) for each in COSTLY[:2]]
        slowest = 0.0
        while not all(each.done() for each in asked):
            begun = time.monotonic()
            assert call(address, "/health")[0] == 200
            slowest = max(slowest, time.monotonic() - begun)
        assert [each.result()[0] for each in asked] == [200, 200, 400, 400], asked[0].result()
    assert slowest < 10


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "maximum": 150},
    },
    "required": ["name", "age"],
}
FORMS = [
    PERSON,
    {"type": "array", "items": PERSON, "minItems": 1, "maxItems": 2},
    {"type": "object", "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}}, "required": ["ok"],
     "additionalProperties": False},
    {**PERSON, "x-guidance": {"whitespace_flexible": True}},
]  # fmt: skip


@pytest.mark.parametrize("schema", FORMS)
def test_answers_are_whole_unless_cut(address, schema):
    """A model that writes at random: each answer parses unless max_tokens cut it; no line ends between tokens."""
    whole, cut = 0, 0
    for seed in range(7):
        body = asking({**schema, "additionalProperties": False} if schema is not FORMS[1] else schema)
        body |= {"n": 15, "seed": seed, "temperature": 2, "max_tokens": 120}
        for choice in json.loads(call(address, "/v1/chat/completions", body)[2])["choices"]:
            cut += choice["finish_reason"] == "length"
            if choice["finish_reason"] == "stop":
                json.loads(choice["message"]["content"])
                whole += 1
            assert "\n" not in choice["message"]["content"].replace("\\n", "")
    assert whole + cut == 105
    print(f"{whole} of 105 whole, {cut} cut by max_tokens")


def test_a_grammar_that_fails_ends_its_text_alone(grammars):
    grammar = grammars.json({"const": 5}).copy()
    with pytest.raises(GrammarFault, match="cannot be followed"):
        grammar.accept(9)
