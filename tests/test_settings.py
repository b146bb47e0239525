"""Settings and keys: precedence, checks, and that a key shows nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_magic import settings
from batch_magic.errors import CellError

KEY = "sk-test-4f9a8b7c6d"


def test_environment_sets_every_setting_by_its_name() -> None:
    """`BATCH_MAGIC_<NAME>`, upper case."""
    use = settings.from_environment({"BATCH_MAGIC_MODEL": "m", "BATCH_MAGIC_POLL_MAX_S": "9"})
    assert (use.model, use.poll_max_s) == ("m", 9.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RETRIES", "many"),
        ("POLL_FIRST_S", "0"),
        ("MAX_ROWS_PER_JOB", "50001"),
        ("MAX_BYTES_PER_JOB", "1"),
        ("WAIT", "sometimes"),
        ("RETRIES", "-1"),
        ("POLL_MAX_S", "nan"),
        ("COLLECT_TIMEOUT_S", "inf"),
    ],
)
def test_setting_of_no_use_is_refused_by_name(name: str, value: str) -> None:
    """The message names the setting that has to be mended."""
    with pytest.raises(CellError, match=f"(?i){name}"):
        settings.from_environment({f"BATCH_MAGIC_{name}": value})


def test_dotenv_adds_to_the_environment_and_never_overrides_it(tmp_path: Path) -> None:
    """What is exported in the shell is the stronger word."""
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={KEY}\nPATH=/nowhere\n")
    environ = settings.environment(tmp_path)
    assert environ["OPENAI_API_KEY"] == KEY
    assert environ["PATH"] != "/nowhere"


def test_key_makes_openai_the_default_and_its_absence_says_what_to_do() -> None:
    """Without key and backend there is one line: set a key, or use the sandbox."""
    backend = settings.find_backend("", {"OPENAI_API_KEY": KEY})
    assert (backend.name, backend.base_url) == ("openai", settings.OPENAI_URL)
    with pytest.raises(CellError, match=r"OPENAI_API_KEY.*--on sandbox"):
        settings.find_backend("", {})


def test_base_url_of_the_environment_is_openais() -> None:
    """A proxy of the house stands where OpenAI would."""
    environ = {"OPENAI_BASE_URL": "https://proxy.example/v1/"}
    assert settings.find_backend("openai", environ).base_url == "https://proxy.example/v1"


def test_credentials_do_not_show_their_key() -> None:
    """A repr ends up in logs and tracebacks."""
    backend = settings.find_backend("openai", {})
    assert KEY not in repr(settings.find_credentials(backend, {"OPENAI_API_KEY": KEY}))
