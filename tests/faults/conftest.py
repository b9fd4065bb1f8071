"""The looped families and their tiny configs stand among the tests of interop."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "interop"))
