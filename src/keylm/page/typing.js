// What a phone's keyboard does, without the screen: accepted words, autocorrection, undo, and the keystroke count.
//
// Keystrokes are counted as by Trnka & McCoy (ACL 2008), but with mistakes: a letter, space, sign or backspace is a key;
// an accepted word is one key, and its space comes with it, which a following sign replaces. Saved keystrokes are the
// text's characters minus the keys. Other changes (paste, cut) count one key a character and save nothing.

const ENDS_A_WORD = new Set([" ", "\n", ".", ",", "!", "?", ";", ":"]);
const TAKES_A_SPACE = new Set([".", ",", "!", "?", ";", ":"]);
const NO_ANSWER = { suggestions: [], correction: null, partial: "" };

export class Typing {
  before = "";
  after = "";
  keys = 0;
  taken = 0;
  corrected = 0;
  autocorrect = true;
  hidden = false; // dismissed with Esc until the next word
  #language;
  #answers = new Map(); // for the last texts
  #ended = []; // words whose end was typed before their correction was known
  #kept = new Set(); // words that the user insists on
  #undo = null; // {before: the text now, restored: as typed, word: what was typed, sign: after it, corrected}
  #spaced = null; // the text, where its last space came with a word

  /** `language`: a Language. */
  constructor(language) {
    this.#language = language;
  }

  get text() {
    return this.before + this.after;
  }

  get partial() {
    return this.#language.partial(this.before);
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

  /** The typed letters that a correction or an accepted word replaced; null where backspace only deletes. */
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
    this.#takeBack(character);
    if (TAKES_A_SPACE.has(character) && this.#spaced === this.before) this.before = this.before.slice(0, -1);
    const word = this.partial;
    const question = this.before;
    this.before += character;
    if (!word || !ENDS_A_WORD.has(character)) {
      if (!this.#language.part.test(character)) this.hidden = false;
      return;
    }
    this.hidden = false;
    const ended = { question, word };
    if (this.#answers.has(question)) this.#correct(ended, this.#answers.get(question));
    else if (this.autocorrect && !this.#kept.has(word.toLowerCase())) this.#ended.push(ended);
  }

  /** The last key is held: its letter becomes another, with the capital that it has. */
  turn(letter) {
    const [last, capital] = [this.before.at(-1), letter.toUpperCase()];
    const raised = last !== last.toLowerCase() && capital.length === 1; // "ß" has none
    this.before = this.before.slice(0, -1) + (raised ? capital : letter);
  }

  /** Restore a corrected word where `character`, after the sign that ended it, makes it an address ("exmaple.com"). */
  #takeBack(character) {
    if (this.undoable === null || !this.#undo.corrected) return;
    const { sign, word, restored } = this.#undo;
    if (!this.#language.continued.test(sign + character)) return;
    this.corrected -= 1;
    this.before = restored;
    this.#undo = null;
  }

  /** The key that deletes; right after a correction or an accepted word it restores what was typed. */
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
    this.#ended = this.#ended.filter(({ question }) => this.before.startsWith(question) && this.before !== question);
  }

  /** Replace the typed letters by an accepted word, with a space after it. */
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

  /** The field changed in another way: paste, cut, a letter typed over a selection. */
  edit(text, caret) {
    if (!text) {
      this.clear(); // a new text, a new count
      return;
    }
    this.keys += Math.abs([...text].length - this.characters);
    this.move(text, caret);
    this.#ended = [];
  }

  /** The cursor moved elsewhere. */
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

  /** The text to ask about next; null where there is none. */
  question() {
    if (this.#ended.length) return this.#ended[0].question;
    return this.#answers.has(this.before) ? null : this.before;
  }

  /** Take the answer for a text: {suggestions: [{word}], correction}; without one nothing is suggested. */
  answered(text, answer = NO_ANSWER) {
    this.#answers.delete(text);
    this.#answers.set(text, answer);
    if (this.#answers.size > 50) this.#answers.delete(this.#answers.keys().next().value);
    const late = this.#ended.filter(({ question }) => question === text);
    this.#ended = this.#ended.filter(({ question }) => question !== text);
    for (const ended of late) this.#correct(ended, answer);
  }

  #wanted(word, answer) {
    const wanted = this.autocorrect && answer.correction && !this.#kept.has(word.toLowerCase());
    return wanted && answer.correction !== word ? answer.correction : null;
  }

  /** Correct a word whose end has been typed, if it is still there. */
  #correct({ question, word }, answer) {
    const correction = this.#wanted(word, answer);
    if (!correction || !this.before.startsWith(question) || this.before === question) return;
    const restored = this.before;
    const sign = restored.slice(question.length);
    if (this.#language.continued.test(sign)) return;
    this.before = question.slice(0, question.length - word.length) + correction + sign;
    this.#ended = this.#ended.map((later) => ({
      ...later,
      question: later.question.startsWith(question)
        ? question.slice(0, question.length - word.length) + correction + later.question.slice(question.length)
        : later.question,
    }));
    this.corrected += 1;
    this.#undo = { before: this.before, restored, word, sign, corrected: true };
  }
}
