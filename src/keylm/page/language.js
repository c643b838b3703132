// The language of the page: language_table.js, which page/language.py builds from the language's folder. What typed text
// is, before any model reads it, is computed as in keyboard/reading.py; a test puts one table of cases to both.

import table from "./language_table.js";

export class Language {
  #words;
  #prose;
  #used; // an apostrophe after a letter
  #inner; // one within a word, or at the end of what is typed
  #certain; // without apostrophe, in lower case: the contraction
  #byEar; // the stem of a negation and its ending as it is heard
  #heard; // by stem: the contraction
  #alsoWords;
  #negation;
  #negationMistyped;

  /** Takes the contents of language_table.js. */
  constructor({ words, layout, mistakes, contractions, prose }) {
    const { apostrophe, letter, word, unfinished, part, inner, clitics } = words;
    this.layout = layout; // {rows: letters, signs: rows of the second board, beside_space: two keys, long_press}
    this.apostrophe = apostrophe;
    this.listedCapitals = words.listed_capitals; // share of nouns that are typed without their capital
    this.letterBytes = { beginnings: new Set(words.letter_beginnings), ends: new Set(words.letter_ends) }; // not whole
    this.mistakes = mistakes; // for channel.js
    this.whole = new RegExp(`^(?:${word})$`); // a whole word
    this.plain = new RegExp(`^${letter}+$`); // a word without apostrophes
    this.parts = new RegExp(`^${part}*$`); // letters and apostrophes
    this.inner = new RegExp(`^${inner}`); // the beginning of a token that continues a word
    this.other = new RegExp(`[\\p{L}\\p{N}${apostrophe}]$`, "u"); // the end of a number or of some other word
    const apart = `(?<![\\p{L}\\p{N}_${apostrophe}])`;
    const after = clitics.map((clitic) => `(?<=${apart}${clitic})`);
    const beginning = `(?:${[apart, ...after].join("|")})${clitics.length ? `(?!(?:${clitics.join("|")})${letter})` : ""}`;
    this.typed = new RegExp(`${beginning}(?:${unfinished})$`, "u");
    this.elided = new RegExp(clitics.length ? `(?:${after.join("|")})$` : "(?!)", "u"); // the end of "l'", before a word
    this.part = new RegExp(`^(?:${part}|[${contractions.apostrophes}])$`); // one character of a word
    this.continued = new RegExp(prose.continued); // what shows that the word before it was no prose
    this.omitted = contractions.omitted; // share of contractions without their apostrophe
    this.#words = words;
    const used = `(?<=${letter})[${apostrophe}${contractions.apostrophes}]`;
    this.#used = new RegExp(used, "g");
    this.#inner = new RegExp(`${used}(?=${letter}|$)`, "g");
    this.#prose = {
      ...prose,
      token: new RegExp(`^(?:${prose.token})$`),
      not_prose: prose.not_prose.map((pattern) => new RegExp(pattern)),
    };
    const byForm = (listed) => new Map(listed.map((contraction) => [this.#bare(contraction), contraction]));
    this.#certain = byForm(contractions.certain);
    this.#alsoWords = byForm(contractions.also_words);
    this.#negation = new RegExp(`^(?:${contractions.negation})$`);
    this.#byEar = new RegExp(`^(.*[^${mistakes.vowels}])(?:${contractions.negation_by_ear})$`);
    const negations = [...this.#certain].filter(([, word]) => this.#negation.test(word.toLowerCase()));
    this.#heard = new Map(negations.map(([bare, word]) => [this.#stem(bare), word]));
    this.#negationMistyped = new RegExp(`^(?:${contractions.negation_mistyped})$`);
  }

  /** Return the word that is being typed at the end of a text; empty between words. */
  partial(text) {
    const found = this.typed.exec(this.straight(text).text);
    return found ? text.slice(found.index) : "";
  }

  /** Return {text, apostrophe}: `text`, of the same length, with straight ones in its words, and the one used last. */
  straight(text) {
    const { apostrophe } = this.#words;
    return {
      text: text.replace(this.#inner, apostrophe),
      apostrophe: text.match(this.#used)?.at(-1) ?? apostrophe,
    };
  }

  /** Return a word with another apostrophe than the straight one. */
  withApostrophe(word, apostrophe) {
    return word.replaceAll(this.#words.apostrophe, apostrophe);
  }

  /** Return whether the word at the end of a text is prose: no part of an address, a name or code. */
  isProse(text) {
    const { token, not_prose, fence, code_mark } = this.#prose;
    const line = text.slice(text.lastIndexOf("\n") + 1);
    const parts = line.split(code_mark);
    if (text.split(fence).length % 2 === 0 || parts.length % 2 === 0) return false;
    const besideCode = parts.filter((_, place) => place % 2 === 0).join("");
    return token.test(line.split(/\s/).at(-1)) && !not_prose.some((pattern) => pattern.test(besideCode));
  }

  /** Return the contraction that `typed`, which is no word, stands for; null where it is one, or another word. */
  contraction(typed) {
    const bare = this.#bare(typed);
    const marked = typed.includes(this.#words.apostrophe);
    const heard = this.#heard.get(this.#stem(bare) ?? "");
    const found = this.#certain.get(bare) ?? heard ?? (marked ? this.#alsoWords.get(bare) : undefined);
    return found && found.toLowerCase() !== typed.toLowerCase() ? cased(found, typed) : null;
  }

  /** Return the contraction that `typed`, which is a word too, may stand for; null where there is none. */
  alternative(typed) {
    const found = this.#alsoWords.get(typed.toLowerCase());
    return found ? cased(found, typed) : null;
  }

  /** Return [without apostrophe, contraction], lower case, of those that `typed` is one slip away from. */
  near(typed) {
    const bare = this.#bare(typed);
    const found = [...this.#certain].filter(([form]) => oneSlip(bare, form));
    return found.map(([form, contraction]) => [form, contraction.toLowerCase()]);
  }

  /** Return whether `word` may take the place of `typed`: it drops no negation, and is no mere alternative. */
  keeps(typed, word) {
    if (word === typed) return true;
    const kept = this.#negation.test(word.toLowerCase()) || !this.#mayNegate(typed);
    return kept && word !== this.alternative(typed);
  }

  /** Return whether a word negates, its apostrophe missing or not, or is a slip away from one that does. */
  #mayNegate(typed) {
    const bare = this.#bare(typed);
    const meant = [typed.toLowerCase(), this.#certain.get(bare) ?? "", this.#alsoWords.get(bare) ?? ""];
    if (this.#negationMistyped.test(bare)) meant.push(...this.near(typed).map(([, contraction]) => contraction));
    return meant.some((word) => this.#negation.test(word));
  }

  /** Return a word without the ending of a negation by ear; undefined where it has none after a consonant. */
  #stem(bare) {
    return this.#byEar.exec(bare)?.[1];
  }

  #bare(word) {
    return word.replaceAll(this.#words.apostrophe, "").toLowerCase();
  }
}

export const LANGUAGE = new Language(table);

export function isUpperCase(word) {
  return word === word.toUpperCase() && word !== word.toLowerCase();
}

export function isCapital(word) {
  return word[0] !== word[0].toLowerCase();
}

/** Return `word` with an initial capital where `like` has one. */
export function cased(word, like) {
  return isCapital(like) ? word[0].toUpperCase() + word.slice(1) : word;
}

/** Return whether one letter too many, missing, wrong or swapped with its neighbour is between two words. */
function oneSlip(left, right) {
  const shorter = Math.min(left.length, right.length);
  let [start, end] = [0, 0];
  while (start < shorter && left[start] === right[start]) start++;
  while (end < shorter - start && left.at(-1 - end) === right.at(-1 - end)) end++;
  const [one, other] = [left, right].map((word) => word.slice(start, word.length - end));
  const swapped = one.length === 2 && one === other[1] + other[0];
  return one !== other && (Math.max(one.length, other.length) < 2 || swapped);
}
