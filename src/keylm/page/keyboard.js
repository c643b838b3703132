// The keyboard's view: the field, the strip of three words, the keys, the figures. typing.js has the behaviour.

import { byId, make, said } from "./dom.js";
import { Typing } from "./typing.js";

const STEPS = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
const NAMED = {
  shift: ["⇧", "Shift"],
  backspace: ["⌫", "Backspace"],
  signs: ["123", "Digits and signs"],
  letters: ["abc", "Letters"],
  space: ["space", "Space"],
  enter: ["⏎", "New line"],
};
const HELD = 450; // milliseconds before a key that is held repeats
const AGAIN = 70;
const TURNED = 600; // before a held letter key goes on to its next letter

export class Keyboard {
  #source;
  #typing;
  #boards;
  #board = "letters";
  #shift = false;
  #asking = false;
  #failed = "";
  #held = null;
  #longPress; // key: letters that it types when it is held

  /** `source`: a Server or Local; `language`: a Language. */
  constructor(source, language) {
    this.#source = source;
    this.#typing = new Typing(language);
    this.#boards = boardsOf(language.layout);
    this.#longPress = language.layout.long_press;
    this.#drawBoard();
    this.#listenToField();
    this.#listenToStrip();
    byId("help").open = matchMedia("(min-width: 760px) and (hover: hover)").matches;
    byId("clear").addEventListener("click", () => {
      this.#do(() => this.#typing.clear());
      byId("field").focus();
    });
    byId("copy").addEventListener("click", () => this.#copy());
    byId("autocorrect").addEventListener("change", (event) =>
      this.#do(() => (this.#typing.autocorrect = event.target.checked)),
    );
    byId("strip").addEventListener("click", (event) => {
      const place = event.target.closest("button")?.dataset.place;
      if (place !== undefined) this.#choose(Number(place));
    });
    byId("strip").addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
  }

  /** Called when the view is opened. */
  shown() {
    byId("field").focus({ preventScroll: true });
    this.#do(() => {});
  }

  /** Change something, show it, and ask for suggestions. */
  #do(change) {
    change();
    this.#shift = this.#typing.capital;
    this.#show();
    this.#ask();
  }

  /** One question at a time, always the newest. */
  async #ask() {
    if (this.#asking || byId("panel-keyboard").hidden) return;
    this.#asking = true;
    byId("strip").setAttribute("aria-busy", "true");
    for (let text; (text = this.#typing.question()) !== null;) {
      try {
        const answer = await this.#source.suggest(text);
        this.#typing.answered(text, answer);
        this.#failed = "";
        byId("latency").textContent = `${Math.max(1, Math.round(answer.milliseconds))} ms`;
      } catch (error) {
        this.#typing.answered(text);
        this.#failed = said(error);
      }
      this.#show();
    }
    this.#asking = false;
    byId("strip").setAttribute("aria-busy", "false");
  }

  #choose(place) {
    const choice = this.#typing.choices[place];
    if (choice) this.#do(() => this.#typing.choose(choice));
  }

  #marked() {
    return this.#typing.choices.findIndex(({ kind }) => kind !== "typed");
  }

  // The field and a real keyboard

  #listenToField() {
    const field = byId("field");
    field.addEventListener("beforeinput", (event) => {
      if (event.isComposing || field.selectionStart !== field.selectionEnd) return;
      const typed = { insertText: event.data, insertLineBreak: "\n", insertParagraph: "\n" }[event.inputType];
      if (typed) {
        event.preventDefault();
        this.#do(() => [...typed].forEach((character) => this.#typing.press(character)));
      } else if (event.inputType === "deleteContentBackward") {
        event.preventDefault();
        this.#do(() => this.#typing.backspace());
      }
    });
    field.addEventListener("input", () => this.#do(() => this.#typing.edit(field.value, field.selectionEnd)));
    document.addEventListener("selectionchange", () => {
      if (document.activeElement !== field || field.selectionStart !== field.selectionEnd) return;
      const { before, text } = this.#typing;
      if (field.value === text && field.selectionEnd !== before.length) {
        this.#do(() => this.#typing.move(field.value, field.selectionEnd));
      }
    });
    field.addEventListener("keydown", (event) => this.#fieldKey(event));
  }

  #fieldKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    const choices = this.#typing.choices;
    if (!choices.length) return;
    const digit = ["1", "2", "3"].indexOf(event.key);
    if (event.key === "ArrowDown" && byId("field").selectionEnd === byId("field").value.length) {
      byId("strip").children[this.#marked()]?.focus();
    } else if (event.key === "Escape") {
      this.#do(() => (this.#typing.hidden = true));
    } else if (this.#typing.partial && event.key === "Tab" && !event.shiftKey) {
      this.#choose(this.#marked());
    } else if (this.#typing.partial && digit >= 0 && digit < choices.length) {
      this.#choose(digit);
    } else {
      return;
    }
    event.preventDefault();
  }

  #listenToStrip() {
    const strip = byId("strip");
    strip.addEventListener("keydown", (event) => {
      const buttons = [...strip.querySelectorAll("button")];
      const place = buttons.indexOf(document.activeElement);
      const digit = ["1", "2", "3"].indexOf(event.key);
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) buttons[(place + step + buttons.length) % buttons.length]?.focus();
      else if (event.key === "Escape" || event.key === "ArrowUp") byId("field").focus();
      else if (event.key === "ArrowDown") byId("board").querySelector("[tabindex='0']")?.focus();
      else if (digit >= 0) this.#choose(digit);
      else return;
      event.preventDefault();
      if (digit >= 0) byId("field").focus();
    });
    strip.addEventListener("click", (event) => event.detail === 0 && byId("field").focus()); // chosen with a key
  }

  // The keys on the screen

  #drawBoard() {
    const board = byId("board");
    const rows = this.#boards[this.#board].map((row) => make("div", { className: "row" }, ...row.map((name) => keyOf(name))));
    board.replaceChildren(...rows);
    board.querySelector("button").tabIndex = 0;
    if (board.dataset.listens) return;
    board.dataset.listens = "yes";
    board.addEventListener("pointerdown", (event) => {
      const key = event.target.closest("button");
      if (!key || event.button !== 0) return;
      event.preventDefault(); // the field keeps the focus
      this.#press(key.dataset.key);
      if (key.dataset.key === "backspace") this.#repeat();
      else this.#turn(this.#longPress[key.dataset.key] ?? "");
    });
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
      board.addEventListener(name, () => clearTimeout(this.#held));
    }
    board.addEventListener("click", (event) => {
      const key = event.target.closest("button");
      if (key && event.detail === 0) this.#press(key.dataset.key); // by a key or a screen reader
    });
    board.addEventListener("keydown", (event) => this.#boardKey(event));
  }

  #repeat() {
    const again = () => {
      this.#press("backspace");
      this.#held = setTimeout(again, AGAIN);
    };
    this.#held = setTimeout(again, HELD);
  }

  /** While a letter key is held, its letter becomes one after another of those it has. */
  #turn(letters) {
    let place = 0;
    const next = () => {
      this.#do(() => this.#typing.turn(letters[place++ % letters.length]));
      this.#held = setTimeout(next, TURNED);
    };
    if (letters) this.#held = setTimeout(next, HELD);
  }

  #press(name) {
    if (name === "shift") {
      this.#shift = !this.#shift;
      this.#show();
    } else if (name === "signs" || name === "letters") {
      this.#board = name;
      const focused = byId("board").contains(document.activeElement);
      this.#drawBoard();
      this.#show();
      if (focused) byId("board").querySelector("button").focus();
    } else if (name === "backspace") {
      this.#do(() => this.#typing.backspace());
    } else {
      const character = { space: " ", enter: "\n" }[name] ?? (this.#shift ? name.toUpperCase() : name);
      this.#do(() => this.#typing.press(character));
    }
  }

  /** Arrows go from key to key, which are one stop for Tab. */
  #boardKey(event) {
    const rows = [...byId("board").children].map((row) => [...row.children]);
    const row = rows.findIndex((keys) => keys.includes(document.activeElement));
    if (row < 0) return;
    const place = rows[row].indexOf(document.activeElement);
    const [down, right] = STEPS[event.key] ?? [0, 0];
    if (event.key === "Escape" || (event.key === "ArrowUp" && row === 0)) {
      const word = event.key === "ArrowUp" && byId("strip").querySelector("button[tabindex='0']");
      (word || byId("field")).focus();
    } else if (down || right) {
      const target = rows[(row + down + rows.length) % rows.length];
      const below = Math.round((place / rows[row].length) * target.length);
      const column = right ? (place + right + target.length) % target.length : Math.min(below, target.length - 1);
      document.activeElement.tabIndex = -1;
      target[column].tabIndex = 0;
      target[column].focus();
    } else {
      return;
    }
    event.preventDefault();
  }

  async #copy() {
    byId("field").select();
    try {
      await navigator.clipboard.writeText(this.#typing.text);
      byId("said").textContent = "copied";
    } catch {
      document.execCommand("copy"); // browsers deny the clipboard to pages without TLS
    }
    byId("field").setSelectionRange(this.#typing.before.length, this.#typing.before.length);
  }

  // What is seen

  #show() {
    const typing = this.#typing;
    const field = byId("field");
    if (field.value !== typing.text) field.value = typing.text;
    if (field.selectionEnd !== typing.before.length && field.selectionStart === field.selectionEnd) {
      field.setSelectionRange(typing.before.length, typing.before.length);
    }
    if (!typing.after) field.scrollTop = field.scrollHeight;
    this.#showStrip();
    this.#showFigures();
    const board = byId("board");
    board.classList.toggle("shifted", this.#shift);
    board.querySelector("[data-key=shift]")?.setAttribute("aria-pressed", String(this.#shift));
  }

  #showStrip() {
    const choices = this.#typing.choices;
    const strip = byId("strip");
    const signature = JSON.stringify([choices, this.#failed]);
    if (strip.dataset.shown === signature) return;
    // Between a key and its answer the last words stay, faded, so that nothing moves.
    const waits = !choices.length && this.#typing.question() !== null && !this.#typing.hidden;
    strip.classList.toggle("waits", waits);
    if (waits) {
      strip.dataset.shown = "";
      return;
    }
    const within = strip.contains(document.activeElement);
    strip.dataset.shown = signature;
    if (this.#failed) return strip.replaceChildren(make("p", { className: "fault", textContent: this.#failed }));
    const marked = this.#marked();
    strip.replaceChildren(...choices.map((choice, place) => wordButton(choice, place, place === marked)));
    if (within) (strip.children[marked] ?? byId("field")).focus();
    const correction = choices.find(({ kind }) => kind === "correction");
    byId("said").textContent = correction ? `space corrects to ${correction.word}` : "";
  }

  #showFigures() {
    const { keys, characters, saved, taken, corrected } = this.#typing;
    const percent = Math.round(saved * 100);
    byId("percent").textContent = `${percent} %`;
    byId("keys").textContent = keys;
    byId("characters").textContent = characters;
    byId("taken").textContent = taken;
    byId("corrected").textContent = corrected;
    byId("meter-used").style.inlineSize = `${Math.min(100, Math.max(0, 100 - percent))}%`;
    byId("meter").setAttribute("aria-label", `${keys} keys for ${characters} characters: ${percent} % saved`);
  }
}

/** Return the rows of keys of the two boards. */
function boardsOf({ rows, signs, beside_space: [left, right] }) {
  const letters = rows.map((keys) => [...keys]);
  const others = signs.map((keys) => [...keys]);
  letters.at(-1).unshift("shift");
  for (const board of [letters, others]) board.at(-1).push("backspace");
  const lowest = (other) => [other, left, "space", right, "enter"];
  return { letters: [...letters, lowest("signs")], signs: [...others, lowest("letters")] };
}

function keyOf(name) {
  const [shown, label] = NAMED[name] ?? [name, name];
  const key = make("button", { type: "button", tabIndex: -1, textContent: shown, dataset: { key: name } });
  if (NAMED[name]) key.setAttribute("aria-label", label);
  if (name === "shift") key.setAttribute("aria-pressed", "false");
  return key;
}

function wordButton({ word, kind }, place, marked) {
  const shown = kind === "typed" ? `“${word}”` : word;
  const button = make("button", { type: "button", tabIndex: marked ? 0 : -1, dataset: { place, kind } }, shown);
  button.classList.toggle("marked", marked);
  const label = { typed: `keep ${word}`, correction: `correct to ${word}` }[kind];
  if (label) button.setAttribute("aria-label", label);
  return button;
}
