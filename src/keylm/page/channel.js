// How likely a person is to type one word for another, as keyboard/edit_model.py and typos/kinds.py compute it: the same
// tables and results, for errors at one place of lower-case words. A test compares the two.

const RATED = 5; // letters of the words that channel.mistyped is the error rate of

/** log p(typed | meant) for words without context. */
export class Channel {
  #mistakes;
  #rates;
  #confusions;
  #scale;

  /** `mistakes`: that of a Language. */
  constructor(mistakes) {
    this.#mistakes = mistakes;
    this.#rates = mistakes.rates;
    this.#confusions = new Map(Object.entries(mistakes.confusions));
    this.#scale = mistakes.channel.mistyped / this.#hazards(RATED);
  }

  /** Return the probability that a word is mistyped at all. */
  errorRate(meant) {
    return Math.min(this.#mistakes.constants.highest_rate, this.#scale * this.#hazards(meant.length));
  }

  /** Return whether `typed` is written for `meant` by mistake, whatever its spelling. */
  confused(typed, meant) {
    return this.#confusions.get(meant)?.includes(typed) ?? false;
  }

  /** Return log p(typed | meant) in nats; -Infinity where the words differ by more than one known error. */
  logProbability(typed, meant) {
    const wrong = this.errorRate(meant);
    const { taps, unheld } = this.#mistakes.channel;
    if (typed === meant) return Math.log1p(-wrong) + (this.#heldLetters(meant) ? Math.log1p(-unheld) : 0);
    const tapped = this.isUnheld(typed, meant) ? unheld / (2 ** this.#heldLetters(meant) - 1) : 0;
    const finding = this.classify(typed, meant);
    if (!finding) return Math.log(tapped);
    const fitted = this.#scale * this.#hazard(finding.kind, meant.length) * this.#outcome(finding, typed, meant);
    return Math.log((1 - taps) * fitted + taps * wrong * this.#tapped(finding, meant) + tapped);
  }

  /** Return whether `typed`, another word, is `meant` with keys tapped that should be held. */
  isUnheld(typed, meant) {
    const { held } = this.#mistakes;
    if (typed.length !== meant.length) return false;
    return [...typed].every((letter, place) => letter === meant[place] || held[meant[place]] === letter);
  }

  #heldLetters(word) {
    return [...word].filter((letter) => Object.hasOwn(this.#mistakes.held, letter)).length;
  }

  /** Return {kind, place, clean, noisy}, the last three for slips at one letter only; null where there are several. */
  classify(noisy, clean) {
    const { apostrophe } = this.#mistakes;
    if (this.confused(noisy, clean)) {
      return { kind: (noisy + clean).includes(apostrophe) ? "apostrophe" : "confusion" };
    }
    if (noisy.replaceAll(apostrophe, "") === clean.replaceAll(apostrophe, "")) return { kind: "apostrophe" };
    const stem = commonPrefix(noisy, clean);
    if (this.#isInflection(noisy, clean, stem)) return { kind: "inflection" };
    if (this.#isPhonetic(noisy, clean, stem)) return { kind: "phonetic" };
    return this.#slip(noisy, clean, stem);
  }

  #isInflection(noisy, clean, stem) {
    const { endings, constants } = this.#mistakes;
    return [stem, stem - 1, stem - 2].some(
      (length) =>
        length >= constants.stem && endings.includes(noisy.slice(length)) && endings.includes(clean.slice(length)),
    );
  }

  #isPhonetic(noisy, clean, stem) {
    for (const [left, right] of this.#mistakes.spellings) {
      if (right.length - left.length !== noisy.length - clean.length) continue;
      let at = clean.indexOf(left, Math.max(1, stem - 4));
      for (; at >= 0; at = clean.indexOf(left, at + left.length)) {
        if (clean.slice(0, at) + right + clean.slice(at + left.length) === noisy) return true;
      }
    }
    return false;
  }

  #slip(noisy, clean, at) {
    const [restNoisy, restClean] = [noisy.slice(at), clean.slice(at)];
    if (noisy.length === clean.length) {
      if (restNoisy.slice(1) === restClean.slice(1)) return this.#substitution(at, restClean[0], restNoisy[0]);
      const swapped = restClean[1] + restClean[0] + restClean.slice(2);
      return restNoisy === swapped ? { kind: "transposition", place: at } : null;
    }
    if (restNoisy === restClean.slice(1)) {
      const doubled = at > 0 && clean[at] === clean[at - 1];
      return { kind: doubled ? "undoubling" : "omission", place: at, clean: clean[at] };
    }
    if (restNoisy.slice(1) === restClean) {
      const doubled = at > 0 && noisy[at] === noisy[at - 1];
      return { kind: doubled ? "doubling" : "insertion", place: doubled ? at - 1 : at, noisy: noisy[at] };
    }
    return null;
  }

  #substitution(place, clean, noisy) {
    const { vowels, neighbours } = this.#mistakes;
    const twoVowels = vowels.includes(clean) && vowels.includes(noisy);
    const kind = twoVowels ? "vowel" : neighbours[clean]?.includes(noisy) ? "neighbour" : "substitution";
    return { kind, place, clean, noisy };
  }

  /** Return the relative frequency of a kind among words of a length. */
  #hazard(kind, length) {
    const shares = this.#rates.hazards[kind];
    return shares ? shares[Math.min(length, shares.length) - 1] : 0;
  }

  #hazards(length) {
    return sum(Object.keys(this.#rates.hazards).map((kind) => this.#hazard(kind, length)));
  }

  /** Return the share of this wrong tap among all wrong taps at a word of that length. */
  #tapped({ kind, clean, noisy }, meant) {
    if (!["neighbour", "vowel", "substitution"].includes(kind)) return 0;
    return (this.#mistakes.wrong_taps[clean]?.[noisy] ?? 0) / meant.length;
  }

  /** Return p(typed | meant, kind of error). */
  #outcome(finding, typed, meant) {
    const { kind, place } = finding;
    if (kind === "undoubling") return 1 / [...meant].filter((letter, at) => letter === meant[at + 1]).length;
    if (place !== undefined) return this.#place(kind, place, meant.length) * this.#letter(finding, meant);
    if (kind === "inflection") return this.#ending(typed, meant);
    if (kind === "confusion") return this.#share(this.#rates.confusions, meant, typed, this.#confusions.get(meant));
    return this.#mistakes.channel.one_of_few;
  }

  /** Return the share of this place of a word among the errors of a kind. */
  #place(kind, place, length) {
    const weights = this.#rates.positions[kind];
    const classes = Array.from({ length }, (_, at) => this.#positionClass(at, length));
    const weight = (found) => weights[found] / classes.filter((other) => other === found).length;
    return weight(classes[Math.min(place, length - 1)]) / sum(classes.map(weight));
  }

  #positionClass(place, length) {
    const { positions } = this.#mistakes.constants;
    if (place === 0) return 0;
    if (place >= length - 1) return positions - 1;
    return 1 + Math.floor(((place - 1) * (positions - 2)) / (length - 2));
  }

  /** Return the share of this letter among those that the kind of error writes at the place. */
  #letter({ kind, place, clean, noisy }, meant) {
    const { letters, vowels, neighbours } = this.#mistakes;
    if (kind === "insertion") {
      const { inserted, inserted_nearby: copied } = this.#rates;
      const anyLetter = ((inserted[noisy] ?? 0) + 1) / (sum(Object.values(inserted)) + letters.length);
      const near = meant.slice(Math.max(0, place - 2), place + 1);
      const same = [...near].filter((letter) => letter === noisy).length;
      return (1 - copied) * anyLetter + (near ? (copied * same) / near.length : 0);
    }
    if (kind === "neighbour") return this.#share(this.#rates.neighbours, clean, noisy, neighbours[clean]);
    if (kind === "vowel") return this.#share(this.#rates.vowels, clean, noisy, vowels.replace(clean, ""));
    if (kind === "substitution") {
      return this.#share(this.#rates.substitutions, clean, noisy, letters.replace(clean, ""));
    }
    return 1;
  }

  /** Return the share of this wrong ending among those of a word with that ending. */
  #ending(typed, meant) {
    const { endings, constants } = this.#mistakes;
    const counts = this.#rates.endings;
    const stem = commonPrefix(typed, meant);
    for (const length of [stem, stem - 1, stem - 2]) {
      const [left, right] = [meant.slice(length), typed.slice(length)];
      if (counts[`${left}>${right}`] !== undefined) return this.#share(counts, left, right, endings);
    }
    return constants.smoothing / endings.length;
  }

  /** Return the share of `left` → `right` among all `others`, each with some smoothing added to its count. */
  #share(counts, left, right, others) {
    const count = (other) => (counts[`${left}>${other}`] ?? 0) + this.#mistakes.constants.smoothing;
    return count(right) / sum([...others].map(count));
  }
}

/** Return the length of the longest common prefix. */
export function commonPrefix(left, right) {
  let length = 0;
  while (length < left.length && left[length] === right[length]) length++;
  return length;
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}
