"""Use a trained run: python infer.py [--checkpoint RUN] [--prompt TEXT] [--steps 6] [--task score --file FILE]."""

import sys

from jaxode.inference.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
