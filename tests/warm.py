"""Imported by the campaign's fork server: lives begin with everything loaded."""

import gc

import anywidget  # noqa: F401
import dotenv  # noqa: F401
import ipykernel.kernelapp  # noqa: F401
import numpy  # noqa: F401
import openai  # noqa: F401
import pandas  # noqa: F401
import pyarrow.parquet  # noqa: F401

from batch_magic import api, magic, panel, session, tokens  # noqa: F401

tokens.counter("m")  # its table takes a quarter of a second to read
gc.freeze()  # a collection in a life would copy the pages of all that is loaded
