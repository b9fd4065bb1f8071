r"""A solver of third order whose steps are convex sums of Euler steps (Shu & Osher 1988, SSPRK(3, 3)).

Where an Euler step contracts, so does this one. It takes three evaluations of the field a step, as `--steps` counts
steps: 4 of them are as many evaluations as the full depth of 12.

    python infer.py --plugins examples/plugins/ssprk3.py --checkpoint books-causal \
        --solver ssprk3 --steps 4 --prompt "Once upon a time"
"""

import diffrax
import numpy as np

from jaxode.plugins import register


@register("solver", "ssprk3")
class SSPRK3(diffrax.AbstractERK):
    """k_j = f(t + c_j h, x + h sum_l a_jl k_l), x' = x + h sum_j b_j k_j."""

    tableau = diffrax.ButcherTableau(
        c=np.array([1.0, 0.5]),
        a_lower=(np.array([1.0]), np.array([0.25, 0.25])),
        b_sol=np.array([1 / 6, 1 / 6, 2 / 3]),
        b_error=np.array([1 / 6 - 0.5, 1 / 6 - 0.5, 2 / 3]),  # the distance to Heun's step
    )
    interpolation_cls = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms):
        """Of the global error in h."""
        return 3
