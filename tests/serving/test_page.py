"""The page that the server gives, in a headless browser: typing with mistakes, taking words, chatting, the key."""

import json
import os
import re
import urllib.request
from pathlib import Path

import pytest
from support.browser import DESK, PHONE, browser, opened  # noqa: F401
from support.fake_server import address, model_folder, running, served, with_rules  # noqa: F401

from keylm.serving.start import ServeOptions, prepare

IMAGES = Path(__file__).parent.parent.parent / "docs" / "images"
LARGEST_IMAGE = 150_000
PICTURED = "I am looking forward to seeing you at the weeknd.>weekend. If the weather is"
ASKED = ("How was your day?", "I am so tired today.", "Do you like music?", "What did you do at the weekend?")
MISTYPED = ("becuase", "peopel", "thier", "wihch", "freind", "tiem", "wrold", "litle", "hosue", "watre", "shoudl")


def post(address, path, body):
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def mistyped(address, before):
    """Return a mistyped word that the server corrects after `before`, and its correction."""
    return next(
        (word, found)
        for word in MISTYPED
        if (found := post(address, "/v1/suggest", {"text": before + word})["correction"])
    )


def expect(page, selector, text):
    """Wait until an element's text is, or matches, `text`."""
    from playwright.sync_api import expect as expected

    expected(page.locator(selector)).to_have_text(text, timeout=20_000)


def settle(page):
    """Wait until the strip's words are those of the text."""
    from playwright.sync_api import expect as expected

    expected(page.locator("#strip")).to_have_attribute("aria-busy", "false", timeout=20_000)


def type_slowly(page, text):
    for character in text:
        page.keyboard.type(character)
        settle(page)


def figures(page):
    names = ("keys", "characters", "taken", "corrected", "percent")
    return {name: int(page.inner_text(f"#{name}").removesuffix(" %")) for name in names}


def focused(page):
    return page.evaluate("() => document.activeElement.id || document.activeElement.textContent.trim()")


# What the server gives


def test_the_pages_files_are_open_and_keep_to_themselves(with_rules):
    address = with_rules(api_key="secret")
    for path, kind in (
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/style.css", "text/css"),
        ("/language_table.js", "text/javascript"),
    ):
        with urllib.request.urlopen(address + path, timeout=30) as answer:
            assert answer.headers["content-type"].startswith(kind)
            policy = answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'none'"
        assert {rules[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    for path, status in (("/server.py", 404), ("/page/app.js", 404), ("/%2e%2e/server.py", 404), ("/v1/models", 401)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(address + path, timeout=30)
        assert refused.value.code == status
        assert set(json.loads(refused.value.read())) == {"error"}


def test_the_page_is_for_this_machine_too(address):
    request = urllib.request.Request(address + "/", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 403


# The keyboard


def test_typos_are_corrected_words_taken_and_keys_counted(opened, address):
    before = "The old man "
    typed, correction = mistyped(address, before)
    page = opened(f"{address}/#keyboard", **DESK)
    type_slowly(page, before + typed)
    length = len(before + typed)
    assert figures(page) == {"keys": length, "characters": length, "taken": 0, "corrected": 0, "percent": 0}
    shown = page.locator("#strip button").all_inner_texts()
    assert shown[:2] == [f"“{typed}”", correction]
    type_slowly(page, " ")
    assert page.input_value("#field") == f"{before}{correction} "
    assert figures(page)["corrected"] == 1
    page.keyboard.press("Backspace")  # not this one
    assert page.input_value("#field") == f"{before}{typed} "
    settle(page)
    type_slowly(page, f"{typed} ")
    assert page.input_value("#field") == f"{before}{typed} {typed} "
    assert figures(page)["corrected"] == 0

    page.click("#clear")
    type_slowly(page, "the m")
    words = page.locator("#strip button").all_inner_texts()
    assert [word["word"] for word in post(address, "/v1/suggest", {"text": "the m"})["suggestions"]] == words
    page.keyboard.press("2")
    assert page.input_value("#field") == f"the {words[1]} "
    settle(page)
    page.keyboard.type(".")  # takes the place of the word's space
    assert page.input_value("#field") == f"the {words[1]}."
    now = figures(page)
    assert (now["keys"], now["characters"], now["taken"]) == (7, len(f"the {words[1]}."), 1)
    assert now["percent"] == round(100 * (1 - now["keys"] / now["characters"]))


def test_a_fast_typist_is_corrected_too(opened, address):
    """The space comes before the answer; the correction comes after it, and what was typed since stays."""
    before = "The old man "
    typed, correction = mistyped(address, before)
    page = opened(f"{address}/#keyboard", **DESK)
    expect(page, "#where", re.compile("tiny"))
    page.keyboard.type(f"{before}{typed} ab")
    settle(page)
    assert page.input_value("#field") == f"{before}{correction} ab"
    assert figures(page)["corrected"] == 1


def test_a_real_keyboard_is_enough(opened, address):
    page = opened(address, **DESK)
    expect(page, "#where", re.compile("tiny"))
    page.focus("#tab-chat")
    page.keyboard.press("ArrowRight")
    assert focused(page) == "tab-keyboard"
    assert page.get_attribute("#tab-keyboard", "aria-selected") == "true"
    page.focus("#field")
    type_slowly(page, "a")
    words = page.locator("#strip button").all_inner_texts()
    page.keyboard.press("ArrowDown")
    assert focused(page) == words[0]
    page.keyboard.press("ArrowRight")
    assert focused(page) == words[1]
    page.keyboard.press("Enter")
    assert (page.input_value("#field"), focused(page)) == (f"{words[1]} ", "field")
    settle(page)
    page.keyboard.press("Backspace")  # brings back what was typed
    assert page.input_value("#field") == "a"
    settle(page)
    page.keyboard.press("Tab")
    assert page.input_value("#field") == f"{words[0]} "
    settle(page)
    page.keyboard.press("Tab")  # no trap: between words it goes on
    assert focused(page) == "autocorrect"
    page.focus("#field")
    type_slowly(page, "m")
    page.keyboard.press("Escape")
    type_slowly(page, "3")
    assert page.input_value("#field") == f"{words[0]} m3"
    seen = [focused(page)]
    while len(seen) < 12 and seen[-1] != "q":
        page.keyboard.press("Tab")
        seen.append(focused(page))
    assert seen[:4] == ["field", "autocorrect", "copy", "clear"]
    assert seen[-1] == "q"  # the keys are one stop
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.input_value("#field") == f"{words[0]} m3w"
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    tree = page.locator("body").aria_snapshot()
    for role in ('tab "Keyboard" [selected]', 'textbox "Text"', 'toolbar "Suggestions"', 'button "Backspace"'):
        assert role in tree


def test_a_phone_has_keys_that_fit_and_work(opened, address):
    page = opened(f"{address}/#keyboard", **PHONE)
    expect(page, "#where", re.compile("tiny"))
    edges = page.evaluate(
        "() => [...document.querySelectorAll('button, textarea')].map((e) => e.getBoundingClientRect().right)"
    )
    assert max(edges) <= 360
    assert page.evaluate("() => document.scrollingElement.scrollWidth") == 360
    page.tap("#autocorrect")
    for name in ("h", "i", "space", "signs", "7", "letters", "shift", "x", "backspace", "enter"):
        page.tap(f"#board [data-key='{name}']")
        settle(page)
    assert page.input_value("#field").startswith("H")  # sentences begin with a capital
    assert page.input_value("#field").endswith(" 7\n")
    assert page.get_attribute("#field", "inputmode") == "none"  # the phone's own keyboard stays away
    assert page.get_attribute("#board [data-key='shift']", "aria-pressed") == "true"
    page.locator("#strip button").first.tap()
    assert figures(page)["taken"] == 1


def test_pasting_and_moving_save_nothing(opened, address):
    page = opened(f"{address}/#keyboard", **DESK)
    found = page.evaluate(
        """async () => {
          const { Typing } = await import("/typing.js");
          const { LANGUAGE } = await import("/language.js");
          const typing = Object.assign(new Typing(LANGUAGE), { autocorrect: false });
          typing.edit("pasted text", 11);
          const pasted = [typing.keys, typing.saved];
          typing.move(typing.text, 6);
          for (const c of "!!") typing.press(c);
          const moved = typing.text;
          typing.backspace();
          const found = { pasted, moved, text: typing.text, keys: typing.keys, question: typing.question() };
          typing.edit("", 0);
          return { ...found, left: typing.keys };
        }"""
    )
    assert found == {
        **{"pasted": [11, 0], "moved": "pasted!! text", "text": "pasted! text", "keys": 14},
        **{"question": "pasted!", "left": 0},
    }


# Chat


def long_prompt(address):
    """Return a message that the tiny model answers at length, at temperature 0."""
    for word in ("fox", "sea", "old man", "night", "red", "hill", "rain", "told", "cat"):
        body = {"model": "tiny", "messages": [{"role": "user", "content": word}], "temperature": 0, "max_tokens": 90}
        answer = post(address, "/v1/chat/completions", {**body, "repetition_penalty": 1.1, "top_p": 0.9})
        if answer["usage"]["completion_tokens"] > 60:
            return word, answer["choices"][0]["message"]["content"]
    raise AssertionError("no long answer")


def settings(page, **values):
    page.click("#settings summary")
    for name, value in values.items():
        page.fill(f"#{name}", str(value))


WATCH = """() => {
  window.lengths = [];
  new MutationObserver(() => {
    const answer = [...document.querySelectorAll(".assistant p")].at(-1);
    const length = answer?.textContent.length ?? 0;
    if (length && length !== window.lengths.at(-1)) window.lengths.push(length);
    if (length && window.stopAtOnce) document.getElementById("stop").click();
  }).observe(document.getElementById("messages"), { childList: true, subtree: true, characterData: true });
}"""


def test_an_answer_streams_stops_and_goes(opened, address):
    word, answer = long_prompt(address)
    page = opened(address, **PHONE)
    expect(page, "#where", re.compile("tiny"))
    page.evaluate(WATCH)
    settings(page, temperature=0, max_tokens=90)
    page.fill("#message", word)
    page.press("#message", "Enter")
    expect(page, "#speed", re.compile(r"\d+ tokens · \d+ a second"))
    assert page.locator(".assistant p").text_content() == answer
    lengths = page.evaluate("() => window.lengths")
    assert len(lengths) >= 5
    assert lengths == sorted(lengths)

    page.click("#new-chat")
    assert page.locator(".turn").count() == 0
    assert page.locator("#welcome").is_visible()
    page.evaluate("() => { window.stopAtOnce = true; window.lengths = []; }")
    page.fill("#message", word)
    page.click("#send")
    expect(page, ".turn.assistant small", "stopped")
    assert 0 < len(page.locator(".assistant p").text_content()) < len(answer)
    assert page.locator("#send").is_visible()
    assert page.locator("#stop").is_hidden()


def test_faults_are_said_and_the_question_can_be_put_again(opened, address):
    page = opened(address, **DESK)
    expect(page, "#where", re.compile("tiny"))
    page.fill("#message", "the old man and the sea " * 60)
    page.click("#send")
    expect(page, ".messages .fault", re.compile("context"))
    assert page.locator(".turn.assistant").count() == 0
    assert page.input_value("#message").startswith("the old man")
    settings(page, temperature=3)
    page.fill("#message", "fox")
    page.click("#send")
    assert page.locator(".turn.user").count() == 1  # nothing was sent


def test_the_key_is_asked_for_and_kept_in_the_tab(opened, with_rules):
    page = opened(with_rules(api_key="secret"), **DESK)
    for given, said in (("wrong", "not accepted"), ("secret", "")):
        page.locator("#key-dialog").wait_for(state="visible")
        page.fill("#api-key", given)
        page.keyboard.press("Enter")
        if said:
            expect(page, "#key-why", re.compile(said))
    expect(page, "#where", re.compile("tiny"))
    stored = page.evaluate("() => [sessionStorage.length, localStorage.length, document.cookie]")
    assert stored == [1, 0, ""]
    page.reload()
    expect(page, "#where", re.compile("tiny"))
    assert page.locator("#key-dialog").is_hidden()


# Pictures


def type_with_help(page, words):
    """Type as a practised user would: take a word as soon as it is shown; mistype those written "typed>meant"."""
    settle(page)
    for entry in words.split():
        typed, _, meant = entry.partition(">")
        for character in typed:
            shown = page.locator("#strip button").all_inner_texts()
            if not meant and typed in shown:
                page.locator("#strip button").nth(shown.index(typed)).click()
                settle(page)
                break
            type_slowly(page, character)
        else:
            type_slowly(page, " ")


@pytest.fixture(scope="module")
def pictured(request):
    """The server to take pictures of, and whether they are kept: KEYLM_SCREENSHOTS=MODEL writes them to docs/images."""
    model = os.environ.get("KEYLM_SCREENSHOTS")
    if model is None:
        yield request.getfixturevalue("address"), False
        return
    with running(prepare(Path(model), ServeOptions())) as address:
        yield address, True


@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("phone", "dark")])
def test_pictures_of_both_views(size, scheme, pictured, opened, tmp_path):
    address, kept = pictured
    folder = IMAGES if kept else tmp_path
    context = {**(DESK if size == "desk" else PHONE), "color_scheme": scheme, "reduced_motion": "reduce"}
    page = opened(f"{address}/#keyboard", **context, device_scale_factor=1 if size == "desk" else 2)
    type_with_help(page, PICTURED if kept else "the old m")
    type_slowly(page, "nicr" if kept else "")
    page.mouse.move(0, 0)
    page.screenshot(path=folder / f"keyboard-{size}.png")
    page.click("#tab-chat")
    page.evaluate("() => { document.getElementById('temperature').value = 0.3; }")
    for message in (
        "How was your day?",
        "I am so tired today.",
        "Do you like music?",
        "What did you do at the weekend?",
    ):
        page.fill("#message", message)
        page.click("#send")
        page.locator("#send").wait_for(state="visible")
        page.locator("#stop").wait_for(state="hidden")
    page.screenshot(path=folder / f"chat-{size}.png")
    grounds = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, re.findall(r"\d+", grounds))) < 3 * 128
    assert dark == (scheme == "dark")
    for name in ("keyboard", "chat"):
        assert (folder / f"{name}-{size}.png").stat().st_size < LARGEST_IMAGE
