"""Imported by the campaign's fork server: lives begin with everything loaded."""

import ipykernel.kernelapp  # noqa: F401
import numpy  # noqa: F401
import openai  # noqa: F401
import pandas  # noqa: F401
import pyarrow.parquet  # noqa: F401

from batch_magic import api, magic, panel, session  # noqa: F401
