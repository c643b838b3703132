// What a keyboard shows after a text, by a model in this browser: as keyboard/suggest.py, with the simpler search of
// words.js and without a dictionary. The model is told apart from it: worker.js has one, the tests another.

import { correct, logProbability } from "./correct.js";
import { isUpperCase } from "./language.js";
import { search } from "./words.js";

const SHOWN = 3;
const CORRECTED_FROM = 2; // letters that a word must have to be corrected while it is typed

/**
 * Return {partial, words, correction} for a text whose last letters are the word being typed; `words` are
 * [word, log-probability]. `model`: {tokens, near, encode, read}, the WordTokens and NearWords of its vocabulary, the
 * function from a text to its ids, and that which reads a text and returns `expect` (words.js) after it.
 */
export async function answer(text, language, model) {
  const { text: straight, apostrophe } = language.straight(text);
  const typed = language.partial(straight);
  const before = straight.slice(0, straight.length - typed.length);
  const partial = text.slice(before.length);
  if (!typed && language.other.test(straight)) return { partial, words: [], correction: null }; // in another word
  const space = before.endsWith(" ") ? " " : "";
  const expect = await model.read(before.slice(0, before.length - space.length));
  let words = await search(expect, model.tokens, space, typed, SHOWN);
  let correction = null;
  if (isCorrectable(typed, language) && language.isProse(straight)) {
    const other = await alternative(expect, language, model, space, typed);
    if (other) words = [other, ...words.filter(([word]) => word !== other[0])].slice(0, SHOWN);
    correction = await corrected(expect, language, model, before, typed);
  }
  const written = (word) => language.withApostrophe(word, apostrophe);
  return {
    partial,
    words: words.map(([word, value]) => [written(word), value]),
    correction: correction && written(correction),
  };
}

function isCorrectable(typed, language) {
  return typed.length >= CORRECTED_FROM && language.whole.test(typed) && !isUpperCase(typed);
}

/** Return the contraction that a typed word may stand for too, where the model finds it likelier; else null. */
async function alternative(expect, language, { tokens, encode }, space, typed) {
  const word = language.alternative(typed);
  if (!word) return null;
  const [kept, found] = [await encode(space + typed), await encode(space + word)];
  const value = await logProbability(expect, tokens, found);
  return value > (await logProbability(expect, tokens, kept)) ? [word, value] : null;
}

async function corrected(expect, language, { tokens, near, encode }, before, typed) {
  const contraction = language.contraction(typed);
  if (contraction) return contraction;
  const space = before.endsWith(" ") ? " " : "";
  if (!(space || language.elided.test(before)) || !language.plain.test(typed)) return null;
  const slips = [];
  for (const found of near.contractions(typed)) slips.push({ ...found, ids: await encode(space + found.word) });
  return correct(expect, tokens, near, space, typed, await encode(space + typed), slips);
}
