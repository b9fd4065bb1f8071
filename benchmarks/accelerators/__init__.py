"""What `benchmarks/accelerator.py` measures: a file for each question, and the record of the answers."""
