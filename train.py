"""Train a parameter-shared transformer: python train.py [--config configs/NAME.toml] [--model.width 256 ...]."""

import sys

from jaxode.training.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
