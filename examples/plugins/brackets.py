r"""A corpus that is made, not read: balanced brackets of two kinds (Dyck words), whose depth a model has to count.

Texts are dealt out to training and validation by their number, as documents of files are.

    python train.py --plugins examples/plugins/brackets.py --data.corpus brackets --data.tokenizer bytes \
        --train.updates 20 --train.final-batches 8 --train.no-sweep
"""

import random

from jaxode.plugins import register

TEXTS, PAIRS = 2000, 30


@register("corpus", "brackets")
def brackets(data):
    """One text after the other, the same ones whenever they are read."""
    draw = random.Random(0)
    for _ in range(TEXTS):
        text, open_ones, left = [], [], draw.randint(1, PAIRS)
        while left or open_ones:
            if left and (not open_ones or draw.random() < 0.5):
                opened, closed = draw.choice(("()", "[]"))
                text.append(opened)
                open_ones.append(closed)
                left -= 1
            else:
                text.append(open_ones.pop())
        yield "".join(text)
