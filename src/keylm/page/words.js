// Whole words from a model of tokens, as keyboard/search.py finds them, by a simpler search: a beam whose levels are
// tokens.

const WIDTH = 8;
const LEVELS = 4; // words of up to three tokens

/** The tokens of which words consist. */
export class WordTokens {
  /** `vocabulary`: [token, id] pairs, a leading space written Ġ or ▁; `language`: a Language. */
  constructor(vocabulary, language) {
    this.whole = language.whole;
    this.spelling = new Map();
    this.ends = []; // ids that can follow a whole word
    const pieces = [];
    for (const [token, id] of vocabulary) {
      const text = token.replace(/^[Ġ▁]/, " ");
      if (language.piece.test(text)) {
        this.spelling.set(id, text);
        pieces.push([text, id]);
      }
      if (!language.inner.test(text)) this.ends.push(id);
    }
    this.#pieces = pieces.sort(([left], [right]) => (left < right ? -1 : Number(left > right)));
    this.#byText = new Map(pieces);
    this.#inner = pieces.filter(([text]) => !text.startsWith(" ")).map(([, id]) => id);
  }

  #pieces;
  #byText;
  #inner;

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
 * Return up to `k` [word, log-probability], the likeliest first, that begin with `wanted` (the typed letters of the
 * word, with the space before it). `expect` gives for paths of tokens after the text, all of one length, the
 * log-probabilities of the next one.
 */
export async function search(expect, tokens, wanted, k) {
  const done = new Map();
  let best = [];
  let open = [{ cost: 0, spelled: "", path: [] }];
  for (let level = 0; level < LEVELS && open.length; level++) {
    const rows = await expect(open.map(({ path }) => path));
    const longer = [];
    for (const [place, node] of open.entries()) {
      finish(node, rows[place], wanted, tokens, done);
      longer.push(...extensions(node, rows[place], wanted, tokens));
    }
    done.delete(wanted.trimStart());
    best = [...done].sort(([, left], [, right]) => right - left).slice(0, k);
    const bar = best.length === k ? best[k - 1][1] : -Infinity; // more letters only make a word less likely
    open = longer
      .filter(({ cost }) => -cost > bar)
      .sort((left, right) => left.cost - right.cost)
      .slice(0, WIDTH);
  }
  return best;
}

function finish({ cost, spelled }, row, wanted, tokens, done) {
  const word = spelled.trimStart();
  if (spelled.length < wanted.length || !tokens.whole.test(word)) return;
  const ended = tokens.ends.reduce((sum, id) => sum + Math.exp(row[id]), 0);
  const found = Math.exp(done.get(word) ?? -Infinity) + Math.exp(-cost) * ended;
  done.set(word, Math.log(found));
}

function extensions({ cost, spelled, path }, row, wanted, tokens) {
  const fitting = tokens.fitting(wanted.slice(spelled.length));
  const top = [...fitting].sort((left, right) => row[right] - row[left]).slice(0, WIDTH);
  return top.map((id) => ({ cost: cost - row[id], spelled: spelled + tokens.spelling.get(id), path: [...path, id] }));
}
