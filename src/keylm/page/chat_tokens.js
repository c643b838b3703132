// A conversation's tokens. What a user typed is characters: `<|im_end|>` in a message ends no turn.

const VEIL = "\ufdd0"; // a character that no text has: Unicode keeps it for a program's own use
const escape = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** Return what finds the special tokens, which are [text, id] each; a longer one before its beginning. */
function finder(special) {
  const texts = [...special.keys()].sort((a, b) => b.length - a.length);
  return texts.length ? new RegExp(texts.map(escape).join("|"), "g") : /(?!)/g;
}

/**
 * Return the ids of a text in which nothing is special. transformers.js has no switch for that: the text is cut inside
 * of each special token, between a mark and a letter, where a byte-level tokenizer begins a new piece anyway.
 */
export function textIds(text, special, encode) {
  const ids = [];
  let begin = 0;
  for (const { 0: found, index } of text.matchAll(finder(special))) {
    const cut = index + Math.max(1, found.search(/[^\p{L}](?=\p{L})/u) + 1);
    ids.push(...encode(text.slice(begin, cut)));
    begin = cut;
  }
  return [...ids, ...(begin < text.length ? encode(text.slice(begin)) : [])];
}

/**
 * Return the ids of a conversation, up to the start of the answer. `special`: Map of special tokens to ids; `render`
 * makes a text of messages by the chat template; `encode` makes ids of a text.
 */
export function chatIds(messages, { special, render, encode }) {
  const veiled = messages.map((message) => ({
    ...message,
    content: message.content.replace(finder(special), (token) => VEIL.repeat(token.length)),
  }));
  // The template's own tokens are those that stand where the contents have other characters of the same number.
  const marks = render(veiled);
  const rendered = render(messages);
  const text = rendered.length === marks.length ? rendered : marks;
  const ids = [];
  let begin = 0;
  for (const { 0: token, index } of marks.matchAll(finder(special))) {
    if (index > begin) ids.push(...textIds(text.slice(begin, index), special, encode));
    ids.push(special.get(token));
    begin = index + token.length;
  }
  return [...ids, ...(begin < text.length ? textIds(text.slice(begin), special, encode) : [])];
}
