"""A local, truthful OpenAI-compatible service with the Files and Batches APIs."""

VERSION = "0.1.0"
