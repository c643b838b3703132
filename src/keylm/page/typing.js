// What a phone's keyboard does, without the screen: words that are taken, autocorrection, its undoing, and the count.
//
// The count is that of Trnka & McCoy (ACL 2008), with people's mistakes: a letter, space, sign or backspace is a key; a
// word that is taken is a key and brings its space, whose place a sign takes. Saved are the text's characters less the
// keys. What comes otherwise (pasted, cut) counts one key a character and saves nothing.

const WORD = /(?<![\p{L}\p{N}_'])[A-Za-z]+(?:'[A-Za-z]+)*'?$/u;
const ENDS_A_WORD = new Set([" ", "\n", ".", ",", "!", "?", ";", ":"]);
const TAKES_A_SPACE = new Set([".", ",", "!", "?", ";", ":"]);
const UNSOUGHT = { suggestions: [], correction: null, partial: "" };

/** Return the word at a text's end that is being typed; empty between words. */
export function partialOf(text) {
  return WORD.exec(text)?.[0] ?? "";
}

export class Typing {
  before = "";
  after = "";
  keys = 0;
  taken = 0;
  corrected = 0;
  autocorrect = true;
  hidden = false; // put away with Esc until the next word
  #answers = new Map(); // of the last texts
  #ended = []; // words whose end was typed before their correction was known
  #kept = new Set(); // words that the user insists on
  #undo = null; // {before: the text as it is now, restored: as it was typed, word: what was typed, corrected}
  #spaced = null; // the text, where its last space came with a word

  get text() {
    return this.before + this.after;
  }

  get partial() {
    return partialOf(this.before);
  }

  get characters() {
    return [...this.text].length;
  }

  /** Share of keystrokes saved; negative where mistakes cost more than words saved. */
  get saved() {
    return this.characters ? 1 - this.keys / this.characters : 0;
  }

  /** Whether the next letter begins a sentence. */
  get capital() {
    return /(^|[.!?]\s+|\n)$/.test(this.before);
  }

  /** What was typed in the place of which a word stands; null where backspace only deletes. */
  get undoable() {
    return this.#undo?.before === this.before ? this.#undo.word : null;
  }

  /** Up to three words to show: {word, kind: "typed" | "correction" | "word"}; the first but "typed" is marked. */
  get choices() {
    const answer = this.#answers.get(this.before);
    if (!answer || this.hidden) return [];
    const words = answer.suggestions.map(({ word }) => ({ word, kind: "word" }));
    const correction = this.#wanted(this.partial, answer);
    if (!correction) return words.slice(0, 3);
    const others = words.filter(({ word }) => word !== correction);
    return [{ word: this.partial, kind: "typed" }, { word: correction, kind: "correction" }, ...others].slice(0, 3);
  }

  /** A key: one character. */
  press(character) {
    this.keys += 1;
    if (TAKES_A_SPACE.has(character) && this.#spaced === this.before) this.before = this.before.slice(0, -1);
    const word = this.partial;
    const asked = this.before;
    this.before += character;
    if (!word || !ENDS_A_WORD.has(character)) {
      if (!/[A-Za-z']/.test(character)) this.hidden = false;
      return;
    }
    this.hidden = false;
    const ended = { asked, word };
    if (this.#answers.has(asked)) this.#correct(ended, this.#answers.get(asked));
    else if (this.autocorrect && !this.#kept.has(word.toLowerCase())) this.#ended.push(ended);
  }

  /** The key that deletes; right behind a correction or a word that was taken it brings back what was typed. */
  backspace() {
    if (this.undoable !== null) {
      this.keys += 1;
      if (this.#undo.corrected) this.#kept.add(this.#undo.word.toLowerCase());
      this[this.#undo.corrected ? "corrected" : "taken"] -= 1;
      this.before = this.#undo.restored;
      this.#undo = null;
      return;
    }
    if (!this.before) return;
    this.keys += 1;
    this.before = [...this.before].slice(0, -1).join("");
    this.#ended = this.#ended.filter(({ asked }) => this.before.startsWith(asked) && this.before !== asked);
  }

  /** Take a word in the place of what is typed of it, with a space behind it. */
  choose({ word, kind }) {
    const typed = this.partial;
    this.keys += 1;
    if (kind === "typed") this.#kept.add(word.toLowerCase());
    else this.taken += 1;
    const restored = this.before;
    this.before =
      this.before.slice(0, this.before.length - typed.length) + word + (this.after.startsWith(" ") ? "" : " ");
    this.#spaced = this.before;
    this.#undo = kind === "typed" ? null : { before: this.before, restored, word: typed, corrected: false };
    this.hidden = false;
  }

  /** The field changed otherwise: pasted, cut, a letter in the middle of a selection. */
  edit(text, caret) {
    if (!text) {
      this.clear(); // a new text, a new count
      return;
    }
    this.keys += Math.abs([...text].length - this.characters);
    this.move(text, caret);
    this.#ended = [];
  }

  /** The cursor went elsewhere. */
  move(text, caret) {
    if (text.slice(0, caret) === this.before && text === this.text) return;
    this.before = text.slice(0, caret);
    this.after = text.slice(caret);
    this.hidden = false;
  }

  clear() {
    Object.assign(this, { before: "", after: "", keys: 0, taken: 0, corrected: 0, hidden: false });
    this.#ended = [];
    this.#undo = this.#spaced = null;
    this.#kept.clear();
  }

  /** The text that something must be known about next; null where nothing is. */
  question() {
    if (this.#ended.length) return this.#ended[0].asked;
    return this.#answers.has(this.before) ? null : this.before;
  }

  /** What is known of a text: {suggestions: [{word}], correction}; without an answer nothing is suggested. */
  answered(text, answer = UNSOUGHT) {
    this.#answers.delete(text);
    this.#answers.set(text, answer);
    if (this.#answers.size > 50) this.#answers.delete(this.#answers.keys().next().value);
    const late = this.#ended.filter(({ asked }) => asked === text);
    this.#ended = this.#ended.filter(({ asked }) => asked !== text);
    for (const ended of late) this.#correct(ended, answer);
  }

  #wanted(word, answer) {
    const wanted = this.autocorrect && answer.correction && !this.#kept.has(word.toLowerCase());
    return wanted && answer.correction !== word ? answer.correction : null;
  }

  /** Correct a word whose end has been typed, if it still stands there. */
  #correct({ asked, word }, answer) {
    const correction = this.#wanted(word, answer);
    if (!correction || !this.before.startsWith(asked) || this.before === asked) return;
    const restored = this.before;
    this.before = asked.slice(0, asked.length - word.length) + correction + this.before.slice(asked.length);
    this.#ended = this.#ended.map((later) => ({
      ...later,
      asked: later.asked.startsWith(asked)
        ? asked.slice(0, asked.length - word.length) + correction + later.asked.slice(asked.length)
        : later.asked,
    }));
    this.corrected += 1;
    this.#undo = { before: this.before, restored, word, corrected: true };
  }
}
