// Whole words from a model of tokens, as keyboard/search.py finds them, by a simpler search: a beam whose levels are
// tokens. Tokens and what is typed are bytes here (spelling.js), words are text.

import { beginningOf, bytesOf, speller, textOf } from "./spelling.js";

const WIDTH = 8;
const LEVELS = 4; // words of up to three tokens

/** The tokens of which words consist. */
export class WordTokens {
  /** `vocabulary`: [token, id] pairs, a leading space written Ġ or ▁; `language`: a Language. */
  constructor(vocabulary, language) {
    this.#language = language;
    this.spelling = new Map();
    this.ends = []; // ids that can follow a whole word
    const bytes = speller(vocabulary);
    const pieces = [];
    for (const [token, id] of vocabulary) {
      const text = bytes(token);
      if (this.#isPiece(text)) {
        this.spelling.set(id, text);
        pieces.push([text, id]);
      }
      if (!this.#continues(text)) this.ends.push(id);
    }
    this.#pieces = pieces.sort(([left], [right]) => (left < right ? -1 : Number(left > right)));
    this.#byText = new Map(pieces);
    this.#inner = pieces.filter(([text]) => !text.startsWith(" ")).map(([, id]) => id);
  }

  #language;
  #pieces;
  #byText;
  #inner;

  /** Return the word that some bytes spell; null where it is not whole. */
  word(spelled) {
    const word = textOf(spelled);
    return word !== null && this.#language.whole.test(word) ? word : null;
  }

  /** Return what a word may begin with after such a space: the typed letters and, in some languages, a capital. */
  beginnings(space, typed) {
    const raised = typed && typed[0].toUpperCase() + typed.slice(1);
    const other = this.#language.listedCapitals > 0 && raised.length === typed.length && raised !== typed;
    return (other ? [typed, raised] : [typed]).map((begun) => bytesOf(space + begun));
  }

  /** Return whether a token is a piece of a word; it may have the space before the word, or be that space. */
  #isPiece(text) {
    if (text === " ") return true;
    const { parts, letterBytes } = this.#language;
    const rest = text.replace(/^ /, "");
    const lengths = [0, 1, 2, 3].filter((length) => length <= rest.length);
    const starts = lengths.filter((n) => !n || (letterBytes.ends.has(rest.slice(0, n)) && rest === text));
    const stops = lengths.filter((n) => !n || letterBytes.beginnings.has(rest.slice(-n)));
    const fits = (start, stop) => {
      const middle = start + stop <= rest.length ? textOf(rest.slice(start, rest.length - stop)) : null;
      return middle !== null && parts.test(middle);
    };
    return rest !== "" && starts.some((start) => stops.some((stop) => fits(start, stop)));
  }

  /** Return whether a token can only continue a word. */
  #continues(text) {
    const { inner, letterBytes, apostrophe } = this.#language;
    const rest = text.startsWith(apostrophe) ? text.slice(apostrophe.length) : text;
    return inner.test(beginningOf(text)) || letterBytes.beginnings.has(rest);
  }

  /** Return ids of tokens of which one begins with the other, `rest` or the token; all inner ones without a rest. */
  fitting(rest) {
    if (!rest) return this.#inner;
    const found = [];
    for (let place = this.#first(rest); this.#pieces[place]?.[0].startsWith(rest); place++)
      found.push(this.#pieces[place][1]);
    for (let length = 1; length < rest.length; length++) {
      const id = this.#byText.get(rest.slice(0, length));
      if (id !== undefined) found.push(id);
    }
    return found;
  }

  #first(text) {
    let [low, high] = [0, this.#pieces.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#pieces[middle][0] < text) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/**
 * Return up to `k` [word, log-probability], the likeliest first, that begin with `typed`, after `space` or nothing.
 * `expect` gives for paths of tokens after the text, all of one length, the
 * log-probabilities of the next one.
 */
export async function search(expect, tokens, space, typed, k) {
  const wanted = tokens.beginnings(space, typed);
  const done = new Map();
  let best = [];
  let open = [{ cost: 0, spelled: "", path: [] }];
  for (let level = 0; level < LEVELS && open.length; level++) {
    const rows = await expect(open.map(({ path }) => path));
    const longer = [];
    for (const [place, node] of open.entries()) {
      finish(node, rows[place], wanted[0].length, tokens, done);
      longer.push(...extensions(node, rows[place], wanted, tokens));
    }
    done.delete(typed);
    best = [...done].sort(([, left], [, right]) => right - left).slice(0, k);
    const bar = best.length === k ? best[k - 1][1] : -Infinity; // more letters only make a word less likely
    open = longer
      .filter(({ cost }) => -cost > bar)
      .sort((left, right) => left.cost - right.cost)
      .slice(0, WIDTH);
  }
  return best;
}

function finish({ cost, spelled }, row, least, tokens, done) {
  const word = spelled.length < least ? null : tokens.word(spelled.trimStart());
  if (word === null) return;
  const ended = tokens.ends.reduce((sum, id) => sum + Math.exp(row[id]), 0);
  const found = Math.exp(done.get(word) ?? -Infinity) + Math.exp(-cost) * ended;
  done.set(word, Math.log(found));
}

function extensions({ cost, spelled, path }, row, wanted, tokens) {
  const agreeing = wanted.filter((begun) => begun.startsWith(spelled.slice(0, begun.length)));
  const fitting = agreeing.map((begun) => tokens.fitting(begun.slice(spelled.length)));
  const all = fitting.length === 1 ? fitting[0] : new Set(fitting.flat());
  const top = [...all].sort((left, right) => row[right] - row[left]).slice(0, WIDTH);
  return top.map((id) => ({ cost: cost - row[id], spelled: spelled + tokens.spelling.get(id), path: [...path, id] }));
}
