r"""A block whose attention and feed-forward read the same state: B(x) = x + Attn(norm x) + FF(norm x).

Source: Wang & Komatsuzaki 2021 (GPT-J). The two no longer wait for each other, and f(t, x) is a plain sum.

    python train.py --plugins examples/plugins/parallel_block.py --model.block parallel \
        --train.updates 20 --train.final-batches 8 --train.no-sweep --out runs/parallel
    python infer.py --plugins examples/plugins/parallel_block.py --checkpoint runs/parallel --prompt "def "
"""

from jaxode import Block
from jaxode.config import require
from jaxode.plugins import register


@register("block", "parallel")
class ParallelBlock(Block):
    """The parameters of the standard block; another increment."""

    def __init__(self, config, **options):
        """Post-norm rules write the normalised sum of x and one branch, and two of those do not add up."""
        require(
            config.norm_position in ("pre", "sandwich", "branch"),
            f'model.norm_position = "{config.norm_position}" with model.block = "parallel": must be "pre", "sandwich" '
            'or "branch", under which increments add up',
        )
        super().__init__(config, **options)

    def increment(self, t, x, context):
        """f(t, x) = B(x) - x."""
        return self.attention_increment(t, x, context) + self.feed_forward_increment(t, x, context)
