"""What a person asks of infer.py: the tasks, the texts and lines that they read, the tables that they write."""
