"""What is loaded by name: a shipped model, a run, an exported model, a Hugging Face folder."""
