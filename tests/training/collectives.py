"""What a compiled program sends between devices, read off its text: in loops, and once."""

import re
from collections import Counter

NAMES = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"


def collectives(text):
    """(once, in loops), how often each collective stands there; one that reduces several arrays counts once."""
    inside = set(re.findall(r"(?:body|condition)=%?([\w.\-]+)", text))
    once, loops, here = Counter(), Counter(), ""
    for line in text.splitlines():
        if opened := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            here = opened.group(1)
        if found := re.search(rf" ({NAMES})(?:-start)?\(", line):
            (loops if here in inside else once)[found.group(1)] += 1
    return once, loops
