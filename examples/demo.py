"""Run the quickstart without a browser and print what came out: the whole of `make demo`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
EXECUTED = HERE.parent / "artefacts" / "quickstart.executed.ipynb"
TIMEOUT_S = 1_200


def main() -> int:
    """Execute the notebook cell by cell, printing each one's last output; 0 when all went well."""
    notebook = nbformat.read(HERE / "quickstart.ipynb", as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(HERE)}},
    )
    began = time.monotonic()
    print("running examples/quickstart.ipynb on the sandbox; the local model takes a minute or two")
    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
            if cell.cell_type == "code":
                print(f"\n> {cell.source.splitlines()[0]}\n{_printed(cell)}", flush=True)
    EXECUTED.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, EXECUTED)
    print(f"\ndone in {time.monotonic() - began:.0f} s; the executed notebook: {EXECUTED}")
    print("open the examples in JupyterLab: make lab")
    return 0


def _printed(cell: NotebookNode) -> str:
    """What a terminal shows of a cell's outputs."""
    parts = []
    for output in cell.outputs:
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        # A live panel leaves an empty output behind; the card beside it is the one to read.
        if text.strip() and not text.startswith(("VBox(", "HTML(")):
            parts.append(text.rstrip())
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
