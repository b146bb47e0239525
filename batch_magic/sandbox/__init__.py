"""A local, truthful OpenAI-compatible service with the Files and Batches APIs.

It keeps files and batches in a folder of its own, takes them through all eight states, survives
`kill -9`, and answers on this machine: by a small model, by another OpenAI-compatible server, or
by a stub that says it is one. Any OpenAI client can use it, with any key. It is an island: no
line is shared with the client that is tested against it, and it imports nothing of that client.

    python -m batch_magic.sandbox --home DIR        # --help lists every option and fault
    batch_magic.sandbox.launcher.ensure(DIR).url    # found or started, base URL ending in /v1

Its own routes, beside /v1:

    GET    /sandbox/status     who answers and why, the clock, batches by status, faults
    POST   /sandbox/clock      {"advance_s": 86400}: move the clock; waits and windows end
    GET    /sandbox/faults     the general faults
    PUT    /sandbox/faults     {name: value}: set these, keep the others, null takes one away
    DELETE /sandbox/faults     take all away
    GET    /sandbox/requests   calls by route and answers by route and status, of this life
    GET    /sandbox/batches    every batch ever made, with the rows answered and paid
    GET    /sandbox/ledger     what was billed: requests by lane, model, endpoint and tokens

Faults are named in `faults.SWITCHES`. Those of a batch are set for one batch by its metadata
(`sandbox_fault_NAME`, JSON), those of a row also by a mark in its text: `[[fault:429]]` fails
each time it is sent, `[[fault:429:once]]` the first time only. Model ids that contain
`nonexistent` are not found, keys that begin with `sk-refused` are refused, and `[[flag]]` is what
moderation objects to. The folder's README tells users all of it, with a table of the switches.
"""

VERSION = "0.1.0"
