"""Who answers, and in what shape: the room between a request body and an answer body.

`Desk` is the door. Behind it stand the stub (always), a small model on this machine, and an
OpenAI-compatible server somewhere else. Nothing here knows of files, batches or HTTP.
"""

from .desk import Answer, Desk

__all__ = ["Answer", "Desk"]
