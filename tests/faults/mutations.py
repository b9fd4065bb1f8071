"""What disks, editors and strangers make of a valid file. Every function draws from a `random.Random`."""

import copy
import json
import math

DEEP = "@deep@"
"""Stands for what is too deep for a writer of JSON itself."""
NUMBERS = (0, -1, 1, 3, 2**31, 2**63, 10**40, -(10**40), 0.5, 1e-320, 1e308, math.nan, math.inf, -math.inf)
TEXTS = (
    "",
    " ",
    "\0",
    "../../x",
    "/x",
    "~nobody/x",
    "..",
    "a\nb",
    "\x1b[31mred",
    "\ud800",
    "\U0010ffff\ufeff",
    "e\u0301\u202e",
    "NaN",
    "1e999",
    "x" * 5000,
    "no-such-name",
)
VALUES = (None, True, False, [], {}, [[]], {"": {}}, [None], {"a": 1}, DEEP, *NUMBERS, *TEXTS)
LITERALS = (
    "",
    "nan",
    "-inf",
    "-1",
    "0",
    "1.5",
    "9e999",
    "1" * 5000,
    "99999999999999999999999",
    "true",
    '""',
    '"../../x"',
    '"~nobody/x"',
    r'"\u0000"',
    r'"a\nb"',
    '"x" ',
    "[]",
    "[1, 'a']",
    "[" * 3000 + "]" * 3000,
    "{}",
    "{a = 1}",
    "{a.b = 1, a = 2}",
    "1979-05-27T07:32:00Z",
    "'''\n'''",
    '"no-such-name"',
    '"none"',
    "1_000",
    "0x10",
    "0x" + "f" * 5000,
    "2",
    "7",
    "1e-30",
)


SPLINTERS = (b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"{", b"[", b'"', b"9")


class Twice(dict):
    """An object whose first key is written twice."""

    def items(self):
        """As a writer of JSON reads it."""
        pairs = list(super().items())
        return [*pairs, *pairs[:1]]


def damaged(content: bytes, rng) -> bytes:
    """Bits that flip, parts that are lost, doubled, moved or overwritten, a file cut short."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        size = len(content)
        at, length = rng.randint(0, max(0, size - 1)), rng.choice((1, 2, 8, 64))
        kind = rng.randint(0, 7)
        if kind <= 1 and size:
            content[at] ^= 1 << rng.randint(0, 7)
        elif kind == 2:
            del content[at:]
        elif kind == 3:
            del content[at : at + length]
        elif kind == 4:
            content[at:at] = content[at : at + length]
        elif kind == 5:
            content[at:at] = rng.choice(SPLINTERS)
        elif kind == 6:
            content[at : at + length] = b"\0" * length
        else:
            content[at : at + length] = bytes(rng.randint(0, 255) for _ in range(length))
    return bytes(content)


def altered_json(content: bytes, rng) -> bytes:
    """The same tree with other values, types, names, depths; now and then its bytes are damaged as well."""
    tree = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _altered(tree, rng)
    text = json.dumps(tree, ensure_ascii=rng.random() < 0.8)
    text = text.replace(f'"{DEEP}"', "[" * 5000 + "]" * 5000)
    raw = text.encode("utf-8", "surrogatepass")
    return damaged(raw, rng) if rng.random() < 0.1 else raw


def _altered(tree, rng):
    holders = [(None, None, tree)]  # (container, key, value) of every node
    for _, _, value in holders:
        if isinstance(value, dict | list) and len(holders) < 2000:
            children = value.items() if isinstance(value, dict) else enumerate(value)
            holders.extend((value, key, child) for key, child in list(children)[:300])
    # a tree's many leaves should not hide its few fields
    container, key, value = rng.choice(holders[: rng.choice((8, 40, len(holders)))])
    kind = rng.randint(0, 9)
    if kind <= 5 or container is None:
        new = copy.deepcopy(rng.choice(VALUES))
        if container is None:
            return Twice(tree) if isinstance(tree, dict) and kind > 5 else new
        container[key] = new
    elif kind == 6:
        del container[key]
    elif kind == 7:
        container[key] = copy.deepcopy(rng.choice(holders)[2])
    elif isinstance(container, dict):
        container[rng.choice(TEXTS) if kind == 8 else f"{key}x"] = container.pop(key)
    elif isinstance(value, int | float):
        container[key] = rng.choice(NUMBERS)
    else:
        container.append(value)
    return tree


def altered_toml(content: bytes, rng) -> bytes:
    """Lines with other values, twice, gone, or under other names and tables."""
    lines = content.decode().splitlines()
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randint(0, len(lines) - 1)
        name, equals, _ = lines[at].partition(" = ")
        kind = rng.randint(0, 9)
        if kind <= 5 and equals:
            lines[at] = f"{name} = {rng.choice(LITERALS)}"
        elif kind == 6:
            del lines[at]
        elif kind == 7:
            lines.insert(rng.randint(0, len(lines)), lines[at])
        elif kind == 8:
            lines[at] = rng.choice((f"{name}x = 1", f"{name}.a = 1", f'"{name}\\n" = 1', f"[{name}]", f"[[{name}]]"))
        else:
            lines.insert(at, rng.choice(("[model]", "[[train]]", "[a.b]", "= 1", "\ufeff", "\0", "a", '"" = 1')))
        lines = lines or [""]
    raw = "\n".join(lines).encode()
    return damaged(raw, rng) if rng.random() < 0.1 else raw


def any_text(rng) -> str:
    """Characters of every plane, lone surrogates, controls, and lines of any length."""
    planes = (0x20, 0x100, 0x0, 0x300, 0xD800, 0xFE00, 0x1F600, 0x20000, 0xE0000, 0x10FF00)
    parts = []
    for _ in range(rng.choice((0, 1, 5, 40))):
        base = rng.choice(planes)
        parts.append(chr(min(base + rng.randint(0, 0xFF), 0x10FFFF)))
    parts.append(rng.choice(("", "\n", "\r\n", "\u2028", "\t", ",", '"', " ")))
    return "".join(parts) * rng.choice((1, 1, 1, 7, 5000))


def any_bytes(rng) -> bytes:
    """Text under a right or wrong encoding, with or without damage."""
    encoding = rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-32-be", "latin-1", "utf-7", "cp437"))
    errors = "surrogatepass" if encoding.startswith("utf") and encoding != "utf-7" else "replace"
    raw = "".join(any_text(rng) for _ in range(rng.choice((1, 2, 5)))).encode(encoding, errors)
    return damaged(raw, rng) if raw and rng.random() < 0.3 else raw
