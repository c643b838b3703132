// Tokens as UTF-8, a character for each byte, because a token may begin or end within a letter: keyboard/tokens.py.

/** Return the UTF-8 of a text, a character for each byte. */
export function bytesOf(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/** Return the text of such bytes; null where they begin or end within a character. */
export function textOf(spelled) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(byteArray(spelled));
  } catch {
    return null;
  }
}

/** Return the text of the whole characters at the beginning of such bytes. */
export function beginningOf(spelled) {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(byteArray(spelled)).split("\ufffd", 1)[0];
}

/** Return the function from a vocabulary's token to its bytes, a leading space as such. */
export function speller(vocabulary) {
  if (!vocabulary.some(([token]) => token.startsWith("Ġ"))) {
    return (token) => {
      const byte = /^<0x([0-9A-F]{2})>$/.exec(token);
      return byte ? String.fromCharCode(parseInt(byte[1], 16)) : bytesOf(token.replace(/^▁/, " "));
    };
  }
  const table = byteTable();
  return (token) => {
    const bytes = [...token].map((character) => table.get(character));
    return bytes.includes(undefined) ? bytesOf(token) : String.fromCharCode(...bytes);
  };
}

function byteArray(spelled) {
  return Uint8Array.from(spelled, (character) => character.charCodeAt(0));
}

/** Return the byte of each of ByteLevel's characters: printable Latin-1 is itself, the rest from 256 on. */
function byteTable() {
  const table = new Map();
  let rest = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    table.set(String.fromCharCode(printable ? byte : rest++), byte);
  }
  return table;
}
