// Autocorrection in the browser: a noisy channel, as keyboard/corrector.py, without its dictionary. Candidates are words
// of one token, one mistake away; the model alone says how likely they are here, channel.js how likely the mistake is.

import { commonPrefix } from "./channel.js";
import { cased, isCapital, isUpperCase } from "./language.js";
import { textOf } from "./spelling.js";

const SHORTEST = 3; // letters of a word that may be corrected
const SCORED = 3; // candidates that the model scores whole
const HOPELESS = 3; // nats that a word of one token may lose by its end, at most, for a likelier one to be looked for

/** The words that are one token of a vocabulary, by the space before them and by length. */
export class NearWords {
  #after = { " ": new Map(), "": new Map() };
  #channel;
  #language;

  /** `tokens`: the WordTokens; those with a space before them begin words, others do after a clitic. `language` and `channel`: theirs. */
  constructor(tokens, language, channel) {
    this.#channel = channel;
    this.#language = language;
    for (const [id, text] of tokens.spelling) {
      const space = text[0] === " " ? " " : "";
      const word = textOf(text.slice(space.length));
      if (word === null || word.length < 2 || !language.plain.test(word)) continue;
      const found = { id, word, low: word.toLowerCase() };
      const byLength = this.#after[space];
      if (!byLength.has(word.length)) byLength.set(word.length, []);
      byLength.get(word.length).push(found);
    }
  }

  /** Return the log-probability of typing a word as it is. */
  kept(typed) {
    return this.#channel.logProbability(typed.toLowerCase(), typed.toLowerCase());
  }

  /**
   * Return [{id, word, channel}]: words one mistake away, and the log-probability of typing `typed` for them after a
   * space, or after a clitic. In some languages a missing capital is a mistake.
   */
  near(typed, space) {
    const low = typed.toLowerCase();
    const capital = isCapital(typed);
    const { listedCapitals } = this.#language;
    const byLength = this.#after[space];
    const lengths = [low.length - 1, low.length, low.length + 1].map((length) => byLength.get(length) ?? []);
    return lengths.flat().flatMap(({ id, word, low: meant }) => {
      const lacksCapital = listedCapitals > 0 && !capital && isCapital(word);
      if ((isCapital(word) !== capital && !lacksCapital) || !this.#language.keeps(typed, word)) return [];
      if (meant === low) {
        return lacksCapital ? [{ id, word, channel: this.kept(typed) + Math.log(listedCapitals) }] : [];
      }
      if (!isNear(low, meant) && !this.#channel.confused(low, meant) && !this.#channel.isUnheld(low, meant)) return [];
      const channel = this.#channel.logProbability(low, meant);
      return channel > -Infinity ? [{ id, word, channel }] : [];
    });
  }

  /** Return [{word, channel}]: contractions without their apostrophe and with one more slip. */
  contractions(typed) {
    const low = typed.toLowerCase();
    const found = this.#language.near(typed).map(([form, contraction]) => ({
      word: cased(contraction, typed),
      channel: this.#channel.logProbability(low, form) + Math.log(this.#language.omitted),
    }));
    return found.filter(({ word, channel }) => channel > -Infinity && this.#language.keeps(typed, word));
  }
}

/**
 * Return the correction of `typed` after `space` or nothing, null where it should stay. `ids`: the typed word's tokens, with the space before
 * it; `expect` and `tokens` as in words.js; `slips`: candidates of several tokens, {word, channel, ids}.
 */
export async function correct(expect, tokens, words, space, typed, ids, slips = []) {
  if (typed.length < SHORTEST || isUpperCase(typed)) return null;
  const [first] = await expect([[]]);
  const unchanged = words.kept(typed);
  const hope = ids.length === 1 ? first[ids[0]] + unchanged - HOPELESS : -Infinity;
  const near = words.near(typed, space).map((found) => ({ ...found, score: first[found.id] + found.channel }));
  const likely = near
    .filter(({ score }) => score > hope)
    .sort((left, right) => right.score - left.score)
    .slice(0, SCORED);
  if (!likely.length && !slips.length) return null;
  const rows = await expect([...likely.map(({ id }) => [id]), [ids[0]]]);
  const scored = likely.map(({ word, score }, place) => ({ word, score: score + ended(rows[place], tokens) }));
  for (const { word, channel, ids: spelled } of slips) {
    scored.push({ word, score: channel + (await logProbability(expect, tokens, spelled)) });
  }
  const best = scored.reduce((left, right) => (right.score > left.score ? right : left));
  // More tokens only make the typed word less likely, so mostly the first two decide.
  let kept = first[ids[0]] + unchanged;
  let row = rows.at(-1);
  for (let length = 1; length < ids.length; length++) {
    kept += row[ids[length]];
    if (kept < best.score) return best.word;
    [row] = await expect([ids.slice(0, length + 1)]);
  }
  return kept + ended(row, tokens) < best.score ? best.word : null;
}

/** Return the log-probability of a word, spelled as `ids`, with its end. */
export async function logProbability(expect, tokens, ids) {
  let [row] = await expect([[]]);
  let value = 0;
  for (let length = 0; length < ids.length; length++) {
    value += row[ids[length]];
    [row] = await expect([ids.slice(0, length + 1)]);
  }
  return value + ended(row, tokens);
}

/** Return the log-probability that the word has ended. */
function ended(row, tokens) {
  return Math.log(tokens.ends.reduce((sum, id) => sum + Math.exp(row[id]), 0));
}

/** Return whether two words may be one error apart: a quick test before the classifier. */
function isNear(left, right) {
  const prefix = commonPrefix(left, right);
  const shorter = Math.min(left.length, right.length);
  let suffix = 0;
  while (suffix < shorter - prefix && left.at(-1 - suffix) === right.at(-1 - suffix)) suffix++;
  const rest = Math.max(left.length, right.length) - prefix - suffix;
  return rest < 2 || (rest === 2 && (prefix > 0 || (left[0] === right[1] && left[1] === right[0])));
}
