// The language of the page: language_table.js, which page/language.py builds from the language's folder.

import table from "./language_table.js";

export class Language {
  /** Takes the contents of language_table.js. */
  constructor({ words, layout, mistakes }) {
    const { apostrophe, letter, word, unfinished, part, piece, inner } = words;
    this.layout = layout; // {rows: letters, signs: rows of the second board, beside_space: two keys}
    this.mistakes = mistakes; // for channel.js
    this.whole = new RegExp(`^(?:${word})$`); // a whole word
    this.plain = new RegExp(`^${letter}+$`); // a word without apostrophes
    this.part = new RegExp(`^${part}$`); // one character of a word
    this.piece = new RegExp(`^(?:${piece})$`); // a token that is a piece of a word
    this.inner = new RegExp(`^${inner}`); // the beginning of a token that continues a word
    this.other = new RegExp(`[\\p{L}\\p{N}${apostrophe}]$`, "u"); // the end of a number or of some other word
    this.typed = new RegExp(`(?<![\\p{L}\\p{N}_${apostrophe}])(?:${unfinished})$`, "u");
  }

  /** Return the word that is being typed at the end of a text; empty between words. */
  partial(text) {
    return this.typed.exec(text)?.[0] ?? "";
  }
}

export const LANGUAGE = new Language(table);
