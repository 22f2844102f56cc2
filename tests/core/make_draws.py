"""Writes draws.h: what core/rng.c draws, by a Philox of its own in whole numbers.

    python3 make_draws.py draws.h

The counter is (block, upper half of the block with the purpose in its top byte, index), the key
the seed, all in halves of 32 bits, the lower first. A draw below a bound that is rejected is drawn
again from the block `element + (attempt << 48)`.
"""
import math
import sys

M32, M64 = 2 ** 32 - 1, 2 ** 64 - 1
SEED, INDEX = 0x123456789ABCDEF0, 0x0FEDCBA987654321
PURPOSES = {"TEST": 10, "STATE": 12}  # the places in sara_purpose


def philox(c, k):
    """Salmon et al. 2011, figure 4: ten rounds of 4x32."""
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k[0], p1 & M32, p0 >> 32 ^ c[3] ^ k[1], p0 & M32]
        k = [k[0] + 0x9E3779B9 & M32, k[1] + 0xBB67AE85 & M32]
    return c


# Random123's kat_vectors
assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
PI = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]
assert philox(*PI) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def halves(n):
    return [n & M32, n >> 32]


def block(number, purpose, index=INDEX, seed=SEED):
    low, high = halves(number & M64)
    return philox([low, high ^ purpose << 24, *halves(index)], halves(seed))


def below(bound, purpose, element, index=INDEX, seed=SEED):
    for attempt in range(256):
        low, high = block(element + (attempt << 48), purpose, index, seed)[:2]
        value = high << 32 | low
        if value < M64 - M64 % bound:
            return value % bound, attempt
    raise AssertionError


def normals(count, purpose, index=INDEX, seed=SEED):
    """Box and Muller: of two numbers in (0, 1] and [0, 1)."""
    out = []
    while len(out) < count:
        bits = block(len(out) // 4, purpose, index, seed)
        for a, b in (bits[:2], bits[2:]):
            radius = math.sqrt(-2 * math.log((a + 1) / 2 ** 32))
            out += [radius * f(2 * math.pi * b / 2 ** 32) for f in (math.cos, math.sin)]
    return out[:count]


def uniforms(count, purpose):
    bits = [b for i in range(count // 4 + 1) for b in block(i, purpose)]
    return [(b >> 8) / 2 ** 24 for b in bits[:count]]


def table(kind, name, values, show):
    lines, line = [f"static const {kind} {name}[] = {{"], "   "
    for value in values:
        if len(line) + len(show(value)) > 97:
            lines.append(line)
            line = "   "
        line += f" {show(value)},"
    return "\n".join([*lines, line, "};", ""])


def main(path):
    bound, purpose = 2 ** 63 + 1, PURPOSES["TEST"]
    drawn = [below(bound, purpose, i) for i in range(16)]
    assert max(attempt for _, attempt in drawn) >= 2
    text = "/* Made by make_draws.py. */\n"
    text += f"#define DRAW_SEED  {SEED:#x}u\n#define DRAW_INDEX {INDEX:#x}u\n"
    text += f"#define DRAW_BOUND {bound:#x}u\n"
    text += table("uint64_t", "drawn_below", [value for value, _ in drawn], lambda v: f"{v:#018x}u")
    small = [below(7, PURPOSES["STATE"], i)[0] for i in range(16)]
    text += table("uint64_t", "drawn_below_7", small, str)
    text += table("double", "drawn_normals", normals(11, purpose), lambda v: f"{v:.17g}")
    text += table("float", "drawn_uniforms", uniforms(11, purpose), lambda v: f"{v:.9g}f")
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    main(sys.argv[1])
