"""What is predicted about many texts at once: their likelihood, their labels, their masked tokens."""
