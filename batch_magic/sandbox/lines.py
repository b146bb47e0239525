"""One line of an input file as JSON.

Knows that half a surrogate pair, escaped, is JSON by the grammar though no UTF-8 can hold it: it is
read as U+FFFD, which is what a model would see. How the real service takes such a line is not
known.
"""

import json
from typing import Any

import orjson


def read_line(line: bytes) -> Any:
    """Return the value of a line. Raises ValueError for what is no JSON."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        if b"\\u" not in line:
            raise
    text = json.dumps(json.loads(line), ensure_ascii=False)
    return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
