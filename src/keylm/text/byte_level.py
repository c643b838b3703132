"""The characters in which a ByteLevel vocabulary writes bytes, GPT-2's: "ĠÃ¼ber" is " über"."""


def byte_table() -> dict[str, int]:
    """Return the byte of each of ByteLevel's characters: printable Latin-1 is itself, the rest from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    rest = [byte for byte in range(256) if byte not in set(printable)]
    return table | {chr(256 + n): byte for n, byte in enumerate(rest)}
