"""Public looped language models in plain NumPy, each in a file that stands alone: what their readers are held to."""
