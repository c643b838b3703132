// A simple corrector for the browser: a noisy channel, as evaluation/typing_correction.py, without its dictionary and
// its fitted figures. What may have been meant are words of one token, one mistake away; how likely they are here, the
// model alone says.

const SHORTEST = 3; // letters that a word must have
const WRONG = 0.05; // share of words with a mistake
const SHARES = { swap: 0.2, neighbour: 0.35, other: 0.1, lost: 0.2, doubled: 0.08, added: 0.07 }; // set by hand
const KEPT = Math.log(1 - WRONG);
const WEIGHED = 3; // words that the model is asked about
const HOPELESS = 3; // nats that a word of one token may lose by its end, at most, for a likelier one to be looked for
const ROWS = [
  ["qwertyuiop", 0],
  ["asdfghjkl", 0.25],
  ["zxcvbnm", 0.75],
];

/** The words that a vocabulary has a token for, by their length. */
export class NearWords {
  #byLength = new Map();

  /** `spelling`: [id, text] pairs of word tokens; those with a space before are the beginnings of words. */
  constructor(spelling) {
    for (const [id, text] of spelling) {
      if (!/^ [A-Za-z]{2,}$/.test(text)) continue;
      const found = { id, word: text.slice(1), low: text.slice(1).toLowerCase() };
      this.#byLength.set(found.low.length, [...(this.#byLength.get(found.low.length) ?? []), found]);
    }
  }

  /** Return [{id, word, channel}]: words one mistake away, and the log-probability of typing `typed` for them. */
  near(typed) {
    const low = typed.toLowerCase();
    const capital = isCapital(typed);
    const lengths = [low.length - 1, low.length, low.length + 1].map((length) => this.#byLength.get(length) ?? []);
    return lengths.flat().flatMap(({ id, word, low: meant }) => {
      const share = isCapital(word) === capital && meant !== low ? chance(low, meant) : 0;
      return share ? [{ id, word, channel: Math.log(WRONG * share) }] : [];
    });
  }
}

/**
 * Return the word that should stand in the place of `typed`, null where it should stay. `ids`: the typed word's tokens,
 * with the space before it; `expect` and `tokens` as in words.js.
 */
export async function correct(expect, tokens, words, typed, ids) {
  if (typed.length < SHORTEST || typed === typed.toUpperCase()) return null;
  const [first] = await expect([[]]);
  const hope = ids.length === 1 ? first[ids[0]] + KEPT - HOPELESS : -Infinity;
  const near = words.near(typed).map((found) => ({ ...found, score: first[found.id] + found.channel }));
  const likely = near
    .filter(({ score }) => score > hope)
    .sort((left, right) => right.score - left.score)
    .slice(0, WEIGHED);
  if (!likely.length) return null;
  const rows = await expect([...likely.map(({ id }) => [id]), [ids[0]]]);
  const scored = likely.map(({ word, score }, place) => ({ word, score: score + ended(rows[place], tokens) }));
  const best = scored.reduce((left, right) => (right.score > left.score ? right : left));
  // More tokens only make the typed word less likely, so mostly two are enough to know.
  let kept = first[ids[0]] + KEPT;
  let row = rows.at(-1);
  for (let length = 1; length < ids.length; length++) {
    kept += row[ids[length]];
    if (kept < best.score) return best.word;
    [row] = await expect([ids.slice(0, length + 1)]);
  }
  return kept + ended(row, tokens) < best.score ? best.word : null;
}

/** Return the log-probability that the word has ended. */
function ended(row, tokens) {
  return Math.log(tokens.ends.reduce((sum, id) => sum + Math.exp(row[id]), 0));
}

/** Return the share of one mistake's ways that makes `meant` into `typed` (small letters both); 0 where none does. */
function chance(typed, meant) {
  const length = meant.length;
  let at = 0;
  while (at < length && typed[at] === meant[at]) at++;
  if (typed.length === length) {
    if (typed.slice(at + 1) === meant.slice(at + 1)) {
      const near = neighbours(meant[at]);
      const share = near.includes(typed[at]) ? SHARES.neighbour / near.length : SHARES.other / (25 - near.length);
      return share / length;
    }
    const swapped = meant.slice(0, at) + meant[at + 1] + meant[at] + meant.slice(at + 2);
    return typed === swapped ? SHARES.swap / (length - 1) : 0;
  }
  if (typed.length < length) return typed.slice(at) === meant.slice(at + 1) ? SHARES.lost / length : 0;
  if (typed.slice(at + 1) !== meant.slice(at)) return 0;
  return (typed[at] === typed[at - 1] ? SHARES.doubled : SHARES.added / 25) / length;
}

function isCapital(word) {
  return word[0] !== word[0].toLowerCase();
}

/** Return the letters around a key. */
function neighbours(letter) {
  const row = ROWS.findIndex(([keys]) => keys.includes(letter));
  const places = ROWS.flatMap(([keys, shift], at) => [...keys].map((key, place) => ({ key, at, x: place + shift })));
  const own = places.find(({ key }) => key === letter);
  const near = places.filter(({ at, x }) => Math.abs(at - row) <= 1 && Math.abs(x - own.x) <= 1);
  return near.map(({ key }) => key).filter((key) => key !== letter);
}
