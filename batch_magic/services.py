"""A backend's service, connected: with today's key, and the sandbox started if it is wanted.

It knows which connections there are and refuses to know what they are used for. The sandbox is
an island: it is known here by the name of its launcher alone. The traps: a key that the user
has mended must be the one that the next call shows, and a connection that is given up may
still carry another call, so it is closed at the end and not before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batch_magic import settings
from batch_magic.errors import CellError, ServiceError
from batch_magic.records import OPENAI_URL, Backend
from batch_magic.settings import Credentials, Settings

if TYPE_CHECKING:
    from batch_magic.api import Api


class Services:
    """The connections of one session. `connect` and `disconnect` belong to one event loop."""

    def __init__(self, sandbox_home: Path) -> None:
        self._sandbox_home = sandbox_home
        self._settings = Settings()
        self._environ: Mapping[str, str] = {}
        self._trusted: set[str] = set()
        self._open: dict[tuple[Backend, Credentials], Api] = {}
        self._retired: list[Api] = []
        self._connecting = asyncio.Lock()  # one connection each, though calls go out at once

    def use(self, settings_now: Settings, environ: Mapping[str, str]) -> None:
        """Take the settings and keys that hold from now on, for running runs as well."""
        self._settings, self._environ = settings_now, environ

    def trust(self, backend: Backend) -> None:
        """Let a backend have the key from now on: the user has named it."""
        self._trusted.add(backend.base_url)

    def check(self, backend: Backend) -> None:
        """Raise CellError when a backend could not even be tried: no key, no sandbox here."""
        settings.find_credentials(backend, self._environ)
        if not self._is_trusted(backend):
            url = backend.base_url
            raise CellError(
                f"the run was made at {url}, which nothing here names; its service gets your key"
                f" only when you say so: attach it with --on {url}"
            )
        if backend.is_sandbox:
            _check_sandbox()

    def _is_trusted(self, backend: Backend) -> bool:
        """Tell whether the key may go there: a journal may be a stranger's."""
        if backend.is_sandbox or backend.base_url in self._trusted | {OPENAI_URL}:
            return True
        with contextlib.suppress(CellError):
            for word in ("openai", self._settings.backend):
                if settings.find_backend(word, self._environ).base_url == backend.base_url:
                    return True
        try:
            return urlsplit(backend.base_url).hostname in ("127.0.0.1", "localhost", "::1")
        except ValueError:  # no URL at all
            return False

    async def connect(self, backend: Backend) -> Api:
        """Return the service of a backend. Raises ServiceError when the sandbox cannot start."""
        try:
            self.check(backend)
            credentials = settings.find_credentials(backend, self._environ)
        except CellError as error:
            raise ServiceError(str(error), status=401) from error
        async with self._connecting:
            key = (backend, credentials)
            if key not in self._open:
                self._open[key] = await self._new(backend, credentials)
        return self._open[key]

    async def disconnect(self, backend: Backend) -> None:
        """Forget connections that bring nothing; the next call makes a new one."""
        for key in [key for key in self._open if key[0] == backend]:
            self._retired.append(self._open.pop(key))

    async def close(self) -> None:
        """Close all connections."""
        for api in [*self._retired, *self._open.values()]:
            await api.close()
        self._open.clear()
        self._retired.clear()

    async def _new(self, backend: Backend, credentials: Credentials) -> Api:
        from batch_magic.api import Api

        url = backend.base_url
        if backend.is_sandbox:
            url = await asyncio.to_thread(_sandbox_url, self._sandbox_home, self._settings)
        return Api(
            url,
            credentials.api_key,
            organization=credentials.organization,
            project=credentials.project,
        )


def _check_sandbox() -> None:
    from batch_magic.sandbox import launcher

    try:
        launcher.check_installed()
    except launcher.SandboxError as error:
        raise CellError(str(error)) from None


def _sandbox_url(home: Path, use: Settings) -> str:
    from batch_magic.sandbox import launcher

    try:
        return launcher.ensure(
            home,
            time_scale=use.sandbox_time_scale or None,
            answerer=use.sandbox_answerer,
            model_file=use.sandbox_model_file or None,
            upstream=use.sandbox_upstream or None,
        ).url
    except launcher.SandboxError as error:
        raise ServiceError(str(error)) from error
