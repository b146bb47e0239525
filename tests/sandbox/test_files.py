"""The Files API through the official client."""

import http.client
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from .conftest import Sandbox, jsonl, row, rows, submit, wait


def test_upload_comes_back_byte_for_byte(client: openai.OpenAI) -> None:
    """Bytes that look like line ends to Python must survive the way to the disk and back."""
    text = "a\u2028b\u2029c\u0085d\x0be\x0cf\rg"
    data = json.dumps(row("r1", text), ensure_ascii=False).encode() + b"\n"
    file = client.files.create(file=("odd name ü.jsonl", data), purpose="batch")
    assert client.files.content(file.id).content == data
    assert (file.bytes, file.filename, file.purpose) == (len(data), "odd name ü.jsonl", "batch")
    assert file.status == "processed"


def test_batch_input_expires_after_thirty_days(own: Sandbox) -> None:
    """Retention is 30 days for inputs unless the upload says otherwise, and then it is gone."""
    client = own.client()
    file = client.files.create(file=("a.jsonl", jsonl(rows(1))), purpose="batch")
    assert file.expires_at is not None
    assert file.expires_at - file.created_at == 2_592_000
    own.advance(2_592_001)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    assert client.files.list().data == []


@pytest.mark.parametrize("style", ["bracket", "dotted"])
def test_expiry_is_read_from_both_form_styles(shared: Sandbox, style: str) -> None:
    """The SDK sends bracketed names and other clients dotted ones; both must count."""
    names = {"bracket": "expires_after[{}]", "dotted": "expires_after.{}"}[style]
    parts = [("purpose", "batch"), (names.format("anchor"), "created_at")]
    parts.append((names.format("seconds"), "3600"))
    body = "".join(
        f'--X\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in parts
    )
    body += '--X\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    body += jsonl(rows(1)).decode() + "\r\n--X--\r\n"
    request = urllib.request.Request(
        shared.url + "/files",
        body.encode(),
        {"Content-Type": "multipart/form-data; boundary=X"},
    )
    with urllib.request.urlopen(request) as answer:
        file = json.load(answer)
    assert file["expires_at"] - file["created_at"] == 3600
    assert set(file) == {
        "object", "id", "purpose", "filename", "bytes", "created_at", "expires_at", "status",
        "status_details",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.json", b"{}\n", "Must be .jsonl"),
        ("a.jsonl", b"", "jsonl"),
        ("a.jsonl", b"custom_id,text\n1,2\n", "jsonl"),
    ],
)
def test_upload_refuses_what_is_no_jsonl(
    client: openai.OpenAI, name: str, data: bytes, words: str
) -> None:
    """Extension and first line are all that the upload checks, with a 400 at once."""
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        client.files.create(file=(name, data), purpose="batch")
    assert caught.value.body == {
        "message": caught.value.body["message"],  # type: ignore[index]
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


def test_upload_takes_rows_that_will_fail_later(client: openai.OpenAI) -> None:
    """Lines that parse but lack members are accepted here; only the batch fails."""
    assert client.files.create(file=("a.jsonl", b'{"no": 1}\n'), purpose="batch").id


@pytest.mark.parametrize("seconds", [3599, 2_592_001])
def test_upload_refuses_a_retention_out_of_bounds(client: openai.OpenAI, seconds: int) -> None:
    """One hour to thirty days, and the parameter is named."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(
            file=("a.jsonl", jsonl(rows(1))),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": seconds},
        )
    assert caught.value.param == "expires_after.seconds"


def test_unknown_file_is_a_404_with_its_id(client: openai.OpenAI) -> None:
    """Message, type, param and code are as seen on the real service."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.retrieve("file-abc123")
    assert caught.value.body == {
        "message": "No such File object: file-abc123",
        "type": "invalid_request_error",
        "param": "id",
        "code": None,
    }
    assert caught.value.request_id


def test_files_list_newest_first_in_pages(own: Sandbox) -> None:
    """Cursor pages must cover every file once, in either order and by purpose."""
    client = own.client()
    made = [
        client.files.create(file=(f"{at}.jsonl", jsonl(rows(1))), purpose="batch").id
        for at in range(7)
    ]
    client.files.create(file=("x.txt", b"x"), purpose="user_data")
    newest = [file.id for file in client.files.list(purpose="batch", limit=3)]
    assert newest == made[::-1]
    oldest = [file.id for file in client.files.list(purpose="batch", limit=2, order="asc")]
    assert oldest == made
    page = client.files.list(purpose="assistants")
    assert (page.data, page.has_more) == ([], False)


def test_deleted_file_is_gone(own: Sandbox) -> None:
    """A deletion answers as the real one does and takes the bytes along."""
    client = own.client()
    file = client.files.create(file=("a.jsonl", jsonl(rows(1))), purpose="batch")
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)
    assert not (own.home / "files" / file.id).exists()


def test_running_batch_outlives_its_deleted_input(own: Sandbox) -> None:
    """A client may tidy up its input after the batch was accepted."""
    client = own.client()
    batch = submit(client, rows(50), in_progress_s=200)
    wait(client, batch, "in_progress", "completed")
    client.files.delete(batch.input_file_id)
    assert wait(client, batch).status == "completed"


def test_download_answers_a_range(shared: Sandbox) -> None:
    """A cut download can be taken up where it ended."""
    data = jsonl(rows(3))
    file = shared.client().files.create(file=("a.jsonl", data), purpose="batch")
    request = urllib.request.Request(
        f"{shared.url}/files/{file.id}/content", headers={"Range": "bytes=10-19"}
    )
    with urllib.request.urlopen(request) as answer:
        assert (answer.status, answer.read()) == (206, data[10:20])


def test_large_upload_does_not_grow_the_server(
    start: Callable[..., Sandbox], tmp_path: Path
) -> None:
    """200 MB go through in both directions with a few MB of memory."""
    sandbox = start()
    client = sandbox.client()
    path = tmp_path / "big.jsonl"
    line = json.dumps(row("r", "x" * 99_900)).encode() + b"\n"
    with path.open("wb") as target:
        for _ in range(2000):
            target.write(line)
    before = _resident_bytes(sandbox.process.pid)
    began = time.monotonic()
    with path.open("rb") as source:
        file = client.files.create(file=("big.jsonl", source), purpose="batch")
    with client.files.with_streaming_response.content(file.id) as answer:
        received = sum(len(chunk) for chunk in answer.iter_bytes(1 << 20))
    assert received == path.stat().st_size
    assert _resident_bytes(sandbox.process.pid) - before < 20_000_000
    assert time.monotonic() - began < 30


def test_torn_upload_leaves_no_file(own: Sandbox) -> None:
    """A connection lost half-way is no file and leaves no bytes behind."""
    host = own.url.removeprefix("http://").removesuffix("/v1")
    connection = http.client.HTTPConnection(host)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("Content-Type", "multipart/form-data; boundary=X")
    connection.putheader("Content-Length", "100000")
    connection.endheaders()
    connection.send(b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc')
    connection.close()
    client = own.client()
    assert client.files.list().data == []
    ends = time.monotonic() + 5
    while list((own.home / "incoming").iterdir()):
        assert time.monotonic() < ends
        time.sleep(0.01)


def _resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("needs /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
