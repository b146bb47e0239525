"""Relaying to another server: here, a second sandbox."""

from collections.abc import Callable
from pathlib import Path

from .conftest import Sandbox, lines, row, rows, submit, wait


def test_upstream_answers_and_is_named(start: Callable[..., Sandbox], tmp_path: Path) -> None:
    """The other side's body comes back as it is, its model name included."""
    behind = start(home=tmp_path / "behind")
    front = start("--upstream", behind.url, home=tmp_path / "front")
    client = front.client()
    assert front.control("status")["answerer"]["kind"] == "upstream"
    batch = wait(client, submit(client, [*rows(20), row("bad", max_tokens=5)]))
    found = lines(client, batch.output_file_id)
    assert {item["response"]["body"]["model"] for item in found} == {"sandbox-stub"}
    [failed] = lines(client, batch.error_file_id)
    assert failed["response"]["body"]["error"]["code"] == "unsupported_parameter"
    assert behind.control("requests")["calls"]["chat.completions"] == 21


def test_unknown_model_is_replaced_by_one_it_has(
    start: Callable[..., Sandbox], tmp_path: Path
) -> None:
    """A batch for a model the other side lacks is still answered, and the answer says by whom."""
    behind = start(home=tmp_path / "behind")
    front = start("--upstream", behind.url, home=tmp_path / "front")
    answer = front.client().chat.completions.create(
        model="never-heard-of", messages=[{"role": "user", "content": "hello"}]
    )
    assert answer.model == "sandbox-stub"


def test_dead_upstream_is_a_transport_loss(start: Callable[..., Sandbox], tmp_path: Path) -> None:
    """Rows whose answerer is gone end with status 0, not with a hung batch."""
    behind = start(home=tmp_path / "behind")
    front = start("--upstream", behind.url, home=tmp_path / "front")
    behind.kill()
    client = front.client()
    batch = wait(client, submit(client, rows(3)))
    found = lines(client, batch.error_file_id)
    assert [item["response"]["status_code"] for item in found] == [0, 0, 0]
