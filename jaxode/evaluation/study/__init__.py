"""Studies: one recipe trained in several variants and measured at several numbers of steps.

Every step is a process of its own, so nothing here imports jax.
"""
