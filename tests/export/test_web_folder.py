"""The page as a static folder: what lies there, and, in a headless browser, a model that answers without any server.

The browser's part needs the npm package: `npm install --ignore-scripts @huggingface/transformers@4.3.1`, and the folder
where that was run in KEYLM_TRANSFORMERS_JS.
"""

import contextlib
import functools
import http.server
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from support.browser import DESK, PHONE, browser, opened  # noqa: F401
from support.recipes import tiny_recipe
from support.shapes import random_qwen3

from keylm.base.errors import KeylmError
from keylm.base.files import read_json, write_json
from keylm.export.exporter import ExportOptions, export
from keylm.export.reference import TorchModel
from keylm.export.web import CDN, RUNTIMES, TRANSFORMERS_JS, Library, find_library, write_page
from keylm.model.folder import export_model
from keylm.page import PAGE, page_files
from keylm.page.language import language_script
from keylm.runtimes import onnx_files

pytestmark = pytest.mark.skipif(not all(map(find_spec, ("onnx", "onnxruntime"))), reason="needs the export extra")
LIBRARY = os.environ.get("KEYLM_TRANSFORMERS_JS")
needs_library = pytest.mark.skipif(not LIBRARY, reason="needs transformers.js: its folder in KEYLM_TRANSFORMERS_JS")
CONTEXT = 96
SAMPLE = range(CONTEXT)
"""Tokens that int8 looks at."""


def package(folder: Path, name: str, **settings: Any) -> Path:
    folder.mkdir(parents=True)
    write_json(folder / "package.json", {"name": name, **settings})
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What npm leaves, with empty files."""
    modules = tmp_path / "project" / "node_modules"
    library = package(
        modules / "@huggingface" / "transformers",
        "@huggingface/transformers",
        version=TRANSFORMERS_JS,
        dependencies={"onnxruntime-web": "1.31.0"},
    )
    runtime = package(modules / "onnxruntime-web", "onnxruntime-web", version="1.31.0")
    runtimes = [f"{name}{end}" for name in RUNTIMES for end in (".mjs", ".wasm")]
    for folder, names in ((library, ["transformers.min.js"]), (runtime, runtimes)):
        (folder / "dist").mkdir()
        for name in names:
            (folder / "dist" / name).write_text(name)
    (library / "LICENSE").write_text("Apache")
    return tmp_path / "project"


def test_the_page_names_the_library_it_takes(project: Path, tmp_path: Path):
    web = tmp_path / "web"
    for folder in (project, project / "node_modules", project / "node_modules" / "@huggingface" / "transformers"):
        library = find_library(folder)
        write_page(web, library)
        assert {file.name for file in (web / "transformers.js").iterdir()} == {file.name for file in library.files}
    names = {file.name for file in page_files()} | {"language_table.js", "transformers.js"}
    assert {file.name for file in web.iterdir()} == names
    assert (web / "language_table.js").read_bytes() == language_script()
    assert 'name="keylm-transformers" content="transformers.js/"' in (web / "index.html").read_text()
    write_page(web, None)
    text = (web / "index.html").read_text()
    assert not (web / "transformers.js").exists()
    assert f'name="keylm-transformers" content="{CDN}"' in text
    assert f"@{TRANSFORMERS_JS}/" in CDN
    assert 'http-equiv="Content-Security-Policy"' in text
    assert "keylm-models" not in (PAGE / "index.html").read_text()


def test_another_library_is_refused(project: Path, tmp_path: Path):
    with pytest.raises(KeylmError, match=r"no @huggingface/transformers; accepted: .*npm install"):
        find_library(tmp_path)
    with pytest.raises(KeylmError, match="--transformers-js is for --to web, got --to onnx"):
        ExportOptions(("onnx",), transformers_js=project).check()
    runtime = project / "node_modules" / "onnxruntime-web"
    (runtime / "dist" / "ort-wasm-simd-threaded.wasm").unlink()
    with pytest.raises(KeylmError, match=r"ort-wasm-simd-threaded\.wasm is missing"):
        find_library(project)
    write_json(runtime / "package.json", {"name": "onnxruntime-web", "version": "1.2.3"})
    with pytest.raises(KeylmError, match=r"no onnxruntime-web 1\.31\.0 beside it"):
        find_library(project)
    write_json(
        project / "node_modules" / "@huggingface" / "transformers" / "package.json",
        {"name": "@huggingface/transformers", "version": "3.0.0"},
    )
    with pytest.raises(KeylmError, match=rf"version 3\.0\.0; accepted: {re.escape(TRANSFORMERS_JS)}"):
        export(tmp_path, tmp_path / "out", ExportOptions(("web",), transformers_js=project))
    assert not (tmp_path / "out").exists()


# In a browser


@pytest.fixture(scope="module")
def model(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    shape = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32, "num_attention_heads": 2}
    overrides = [f"model.{name}={value}" for name, value in {**shape, "max_position_embeddings": CONTEXT}.items()]
    network = random_qwen3(3, 400, **shape, num_key_value_heads=1)
    with torch.no_grad():
        network.lm_head.weight *= 20
        network.lm_head.weight[:8] = 0  # no text ends early
    export_model(tiny_recipe(folder, overrides), network.state_dict(), tokenizer, folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def library() -> Library:
    assert LIBRARY
    return find_library(Path(LIBRARY))


@contextlib.contextmanager
def static(root: Path) -> Iterator[str]:
    """Be a static host for a folder; yields the address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def site(model: Path, library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder on a static host, under a path of its own; with the library, and beside it one without."""
    root = tmp_path_factory.mktemp("site")
    web = root / "some" / "web"
    folder = web / "models" / "tiny"
    onnx_files.write_beside(model, folder)
    (folder / "onnx").mkdir()
    graph = onnx_files.build(model, TorchModel(model).weights())
    onnx_files.write_onnx(graph, folder / "onnx" / "model_quantized.onnx", "int8", SAMPLE)
    size = (folder / "onnx" / "model_quantized.onnx").stat().st_size
    dtypes, files = {"wasm": "q8", "webgpu": "q4"}, {"onnx/model_quantized.onnx": size}
    write_json(web / "models.json", [{"name": "tiny", "fingerprint": "1", "dtypes": dtypes, "files": files}])
    write_page(web, library)
    shutil.copytree(web, root / "cdn", ignore=shutil.ignore_patterns("transformers.js"))
    write_page(root / "cdn", None)

    with static(root) as address:
        yield address


def expect(page: Any, selector: str, text: Any) -> None:
    from playwright.sync_api import expect as expected

    expected(page.locator(selector)).to_have_text(text, timeout=20_000)


ASK = """async ([models, library, texts]) => {
  const { Local } = await import(new URL("local.js", document.baseURI).href);
  const local = new Local(models, library, () => {});
  await local.open();
  const found = [];
  for (const text of texts) found.push(await local.suggest(text));
  return found;
}"""


@needs_library
def test_words_are_those_of_the_python_search(opened: Callable[..., Any], site: str, model: Path):
    """On 8-bit weights and with a simpler search: the likeliest word is mostly the same, always one that fits."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from keylm.keyboard.search import Suggester

    suggester = Suggester(AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model))
    texts = ("The old man ", "the red fox and the ", "A cat saw the hill, ", "", "rain\n", "told the sea. In ")
    questions = [(before, typed) for before in texts for typed in ("", "t", "ra", "s", "m")]
    mistakes = {"mna": "man", "foxx": "fox", "hil": "hill", "rian": "rain", "catt": "cat", "oled": "old", "redd": "red"}
    asked = [before + typed for before, typed in questions] + [f"The old {typed}" for typed in mistakes]
    page = opened(f"{site}/some/web/?device=wasm", **DESK)
    found = page.evaluate(ASK, ["models.json", "transformers.js/", asked])
    corrections = [each["correction"] for each in found[len(questions) :]]
    assert any(corrections)
    assert all(found in (None, meant) for found, meant in zip(corrections, mistakes.values(), strict=True)), corrections
    same = 0
    for (before, typed), answer in zip(questions, found, strict=False):
        assert answer["partial"] == typed
        words = [each["word"] for each in answer["suggestions"]]
        assert 0 < len(words) <= 3
        assert all(word.startswith(typed) and word != typed for word in words)
        assert answer["suggestions"] == sorted(answer["suggestions"], key=lambda each: -each["probability"])
        same += words[0] == suggester.suggest(before, typed, 3)[0].word
    assert same >= 0.8 * len(questions), same


@needs_library
def test_the_folder_chats_and_types_without_a_server(opened: Callable[..., Any], site: str, model: Path):
    page = opened(f"{site}/some/web/?device=wasm", **PHONE)
    assert page.evaluate("() => document.scrollingElement.scrollWidth") == 360
    expect(page, "#where", "tiny · in this browser (WebAssembly)")
    page.click("#settings summary")
    for name, value in (("temperature", 0), ("repetition_penalty", 1), ("max_tokens", 12)):
        page.fill(f"#{name}", str(value))
    for message in ("the old man?", "and the red fox?"):
        page.fill("#message", message)
        page.click("#send")
        expect(page, "#speed", re.compile(r"\d+ tokens · \d+ a second"))
        page.evaluate("() => { document.getElementById('speed').textContent = ''; }")
    answers = page.locator(".assistant p").all_text_contents()
    assert len(answers) == 2
    assert answers[0] == greedy(model, [{"role": "user", "content": "the old man?"}], 12)
    page.fill("#message", "x " * CONTEXT)
    page.click("#send")
    expect(page, ".messages .fault", re.compile("longer than the 96 tokens"))
    page.tap("#tab-keyboard")
    for key in "the m":
        page.tap(f"#board [data-key='{ {' ': 'space'}.get(key, key) }']")
    page.locator("#strip[aria-busy=false] button").first.tap()
    assert page.inner_text("#taken") == "1"
    assert page.input_value("#field").startswith("The m")


def greedy(model: Path, messages: list[dict[str, str]], tokens: int) -> str:
    """Return onnxruntime's answer on the same 8-bit weights."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    folder = model.parent / "int8.onnx"
    onnx_files.write_onnx(onnx_files.build(model, TorchModel(model).weights()), folder, "int8", SAMPLE)
    runtime = onnx_files.OnnxModel(folder)
    written = [int(runtime.read(ids)[-1].argmax())]
    while len(written) < tokens:
        written.append(int(runtime.read(written[-1:])[-1].argmax()))
    return str(tokenizer.decode(written, skip_special_tokens=True))


CORRECT = """async ([probabilities, typed, ids]) => {
  const load = (name) => import(new URL(name, document.baseURI).href);
  const { NearWords, correct } = await load("correct.js");
  const { Channel } = await load("channel.js");
  const { LANGUAGE: language } = await load("language.js");
  const spelling = [[5, " time"], [6, " team"], [7, " Tim"], [8, " item"], [9, " there"], [12, " their"], [13, "tim"]];
  const tokens = { ends: [0], spelling };
  const near = new NearWords(tokens, language, new Channel(language.mistakes));
  const row = new Float32Array(20).fill(Math.log(1e-9));
  for (const [id, value] of Object.entries(probabilities)) row[id] = Math.log(value);
  const expect = async (paths) => paths.map(() => row);
  return correct(expect, tokens, near, " ", typed, ids);
}"""


CASES = [
    ({5: 0.02, 0: 0.9}, "tiem", [10, 11], "time"),  # swapped, and likely here
    ({5: 0.02, 6: 0.0001, 0: 0.9}, "teme", [10, 11], "time"),  # one letter wrong
    ({5: 0.001, 10: 0.5, 11: 0.5, 0: 0.9}, "tiem", [10, 11], None),  # what was typed is expected here
    ({5: 0.02, 6: 0.01, 0: 0.9}, "team", [6], None),  # a word that is likely itself
    ({5: 0.02, 0: 0.9}, "Tiem", [10, 11], "Tim"),  # a capital stays one
    ({5: 0.02, 0: 0.9}, "TIEM", [10, 11], None),
    ({5: 0.02, 0: 0.9}, "xyzzy", [10, 11], None),
    ({5: 0.02, 0: 0.9}, "tm", [10], None),
    ({9: 0.4, 12: 0.0001, 0: 0.9}, "their", [12], "there"),  # the wrong word of two that are confused
    ({9: 0.02, 12: 0.02, 0: 0.9}, "their", [12], None),
]


def test_the_browsers_corrector(opened: Callable[..., Any], tmp_path: Path):
    write_page(tmp_path, None)
    with static(tmp_path) as address:
        page = opened(f"{address}/style.css")
        for likely, typed, ids, wanted in CASES:
            probabilities = {str(token): value for token, value in likely.items()}
            assert page.evaluate(CORRECT, [probabilities, typed, ids]) == wanted, typed


@needs_library
def test_the_cdn_has_what_the_page_asks_it_for(opened: Callable[..., Any], site: str, library: Library):
    """The CDN is played by the npm packages, which it serves as they are, each under its name and version."""
    cdn = "https://cdn.jsdelivr.net/npm/"
    versions = {
        f"@huggingface/transformers@{TRANSFORMERS_JS}": library.transformers,
        f"onnxruntime-web@{read_json(library.onnxruntime / 'package.json')['version']}": library.onnxruntime,
    }
    asked: list[str] = []

    def answer(route: Any) -> None:
        name = route.request.url.removeprefix(cdn)
        asked.append(name)
        package, _, file = name.partition("/dist/")
        kind = "application/wasm" if file.endswith(".wasm") else "text/javascript"
        headers = {"access-control-allow-origin": "*"}
        route.fulfill(path=versions[package] / "dist" / file, content_type=kind, headers=headers)

    page = opened(f"{site}/cdn/?device=wasm#keyboard", cdn, lambda page: page.context.route(f"{cdn}**", answer))
    expect(page, "#where", "tiny · in this browser (WebAssembly)")
    assert len(asked) == 3, asked
    page.locator("#strip[aria-busy=false] button").first.wait_for()  # asked before the model was there
    page.keyboard.type("a")
    assert page.input_value("#field") == "a"  # the field has the focus
