"""Tasks made by the program, whose difficulty is a number: a question, "=", an answer that more steps help to find.

Each is a text a line, of letters, digits and signs that are one byte each. Imports no jax.
"""

from __future__ import annotations

from jaxode.data.tasks.asked import Asked, asked
from jaxode.data.tasks.examples import MARK, Question, Task, majority, task_documents, task_examples
from jaxode.data.tasks.tasks import TASKS, find_task

__all__ = [
    "MARK",
    "TASKS",
    "Asked",
    "Question",
    "Task",
    "asked",
    "find_task",
    "majority",
    "task_documents",
    "task_examples",
]
