"""The process that holds the model: llama.cpp's own server on a loopback port.

Run by path, `python -P engine.py WEIGHTS PURPOSE ROWS THREADS`; it imports nothing of this package.
It reads its key from the first line of standard input, writes its address as one line, and ends
when its standard input is closed, so it never outlives the service. The trap: native code ends
a process when it fails, which is why the model does not live inside the service.
"""

import os
import signal
import sys
from typing import Any

_CONTEXT_TOKENS = 8192  # shared by the rows that are answered at once
_EMBEDDING_TOKENS = 2048  # the longest text for one vector


def main(weights: str, purpose: str, rows: int, threads: int) -> None:
    """Load, announce, and wait for the end of standard input."""
    import xllamacpp

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    key = sys.stdin.readline().strip()
    parameters = _parameters(xllamacpp, weights, purpose, key)
    parameters.n_parallel = rows
    parameters.n_threads_http = rows + 2
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # a graceful end would wait for rows that nobody waits for any more


def _parameters(xllamacpp: Any, weights: str, purpose: str, key: str) -> Any:
    given = xllamacpp.CommonParams()
    given.model.path = weights
    given.hostnames = ["127.0.0.1"]
    given.port = 0
    given.api_keys = [key]
    given.ui = False
    given.warmup = False
    given.verbosity = -1
    given.n_ctx = _CONTEXT_TOKENS
    given.kv_unified = True
    given.cache_ram_mib = 0  # by default it keeps gigabytes of old prompts
    if purpose == "embedding":
        given.embedding = True
        given.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        given.n_batch = given.n_ubatch = _EMBEDDING_TOKENS
    return given


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
