"""Object stores as Zarr stores: how long they are waited for, and errors of one kind that show no credentials."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.storage import FsspecStore, ObjectStore, WrapperStore

from voxstack.errors import StoreError

_VARIABLES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_", "abfs": "AZURE_", "abfss": "AZURE_"}
"""Protocols of obstore, and how the names of their environment variables begin."""

_CLIENT = {"timeout": "2 minutes"}
"""Of a request with its answer. A shard is sent in one, so obstore's 30 seconds would be too few on a slow line."""

_CLIENT_OPTIONS = (
    "allow_http", "allow_invalid_certificates", "connect_timeout", "pool_idle_timeout", "pool_max_idle_per_host",
    "proxy_ca_certificate", "proxy_excludes", "proxy_url", "timeout", "user_agent",
)  # fmt: skip

_RETRIES = {"max_retries": 15, "retry_timeout": timedelta(minutes=5)}
_BACKOFF = {"base": 3}
"""Some 35 seconds, where every retry fails at once. Those of obstore, ten by doubling, are over after 3 (median)."""

_ATTEMPTS = 4  # at what obstore does not retry
_PAUSE = 0.1  # seconds behind the first one; three times as long behind each other one


def open_remote(url: str, storage_options: Mapping[str, Any], *, read_only: bool) -> Store:
    """The Zarr store at a URL, through obstore or fsspec; `StoreError` where that cannot be."""
    errors = _Errors(storage_options)
    try:
        with errors.translated():
            return RemoteStore(_inner(url, storage_options, read_only), errors)
    except OSError as error:
        raise StoreError(
            f"{url} cannot be opened: {error} Use a folder, or the URL of an object store such as "
            "s3://bucket/cohort.zarr with the storage_options that it needs."
        ) from None


def _inner(url: str, storage_options: Mapping[str, Any], read_only: bool) -> Store:
    scheme = url.partition("://")[0]
    if scheme not in _VARIABLES:
        return FsspecStore.from_url(url, storage_options=dict(storage_options), read_only=read_only)
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise StoreError(
            f"{url}: object stores need obstore. Install it with: pip install 'voxstack[cloud]'."
        ) from error
    client = {**_CLIENT, **_from_environment(scheme), **storage_options.get("client_options", {})}
    asked = storage_options.get("retry_config", {})
    retries = {**_RETRIES, **asked, "backoff": {**_BACKOFF, **asked.get("backoff", {})}}
    options = {**storage_options, "client_options": client, "retry_config": retries}
    return ObjectStore(from_url(url, **options), read_only=read_only)


def _from_environment(scheme: str) -> dict[str, str]:
    """Client options, which obstore takes from the environment only where it is given none."""
    named = {name: f"{_VARIABLES[scheme]}{name}".upper() for name in _CLIENT_OPTIONS}
    return {name: os.environ[variable] for name, variable in named.items() if variable in os.environ}


class _Errors:
    """What goes wrong with an object store, told as `OSError` in a line without credentials.

    Each protocol has exceptions of its own, and what they say may quote any option.

    Parameters
    ----------
    storage_options
        With the credentials.
    """

    def __init__(self, storage_options: Mapping[str, Any]) -> None:
        self._secrets = sorted(set(_texts(storage_options)), key=len, reverse=True)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Whatever is raised meanwhile, in other words."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise OSError(self._told(error)) from None
        except BaseException as error:
            if type(error).__module__ != "pyo3_runtime":
                raise
            # obstore panics at some options that it does not know.
            raise OSError(f"obstore cannot use what it was given: {self._told(error)}.") from None

    def _told(self, error: BaseException) -> str:
        text = " ".join(str(error).partition("\n\nDebug source")[0].split()) or type(error).__name__
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return re.sub(r"//[^/\s]*@", "//***@", text)


def _texts(options: Any) -> Iterator[str]:
    """All texts of options that are worth hiding; where a store is, which is none, may be said."""
    if isinstance(options, Mapping):
        for name, value in options.items():
            if not re.search("endpoint|region|bucket", str(name)):
                yield from _texts(value)
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _texts(value)
    elif isinstance(options, str | bytes) and len(options) > 3:
        yield options if isinstance(options, str) else options.decode(errors="replace")


class RemoteStore(WrapperStore[Store]):
    """An object store.

    Parameters
    ----------
    store
        Of obstore or fsspec.
    errors
        How what goes wrong is told.
    """

    def __init__(self, store: Store, errors: _Errors) -> None:
        super().__init__(store)
        self._errors = errors

    def _with_store(self, store: Store) -> "RemoteStore":
        return RemoteStore(store, self._errors)

    def __repr__(self) -> str:
        return f"RemoteStore({self._store})"

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """What a key holds, or part of it."""
        with self._errors.translated():
            return await self._store.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Whether a key is there."""
        with self._errors.translated():
            return await self._store.exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key in one request: of one in parts that is stopped, the parts would stay, unseen and paid for."""
        with self._errors.translated():
            if isinstance(self._store, ObjectStore):
                from obstore import put_async

                await put_async(self._store.store, key, value.as_buffer_like(), use_multipart=False)
            else:
                await self._store.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a key unless it is there.

        Of a request that fails nobody knows whether it was carried out: who has to know reads the key.
        """
        await self._insist(self._create, key, value)

    async def _create(self, key: str, value: Buffer) -> None:
        if isinstance(self._store, FsspecStore):
            # Zarr looks first and writes then; file systems that can do it in one step do.
            path = f"{self._store.path}/{key}"
            with suppress(FileExistsError):
                await self._store.fs._pipe_file(path, value.to_bytes(), mode="create")
        else:
            await self._store.set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        """Remove a key, also one that is not there."""
        await self._insist(self._store.delete, key)

    async def _insist(self, change: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Try a change that may be made twice some times."""
        with self._errors.translated():
            for attempt in range(_ATTEMPTS - 1):
                try:
                    await change(*arguments)
                    return
                except Exception:
                    await asyncio.sleep(_PAUSE * 3**attempt)
            await change(*arguments)

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        with self._errors.translated():
            async for key in self._store.list():
                yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that begin so."""
        with self._errors.translated():
            async for key in self._store.list_prefix(prefix):
                yield key

    async def getsize_prefix(self, prefix: str) -> int:
        """Bytes of the keys that begin so."""
        with self._errors.translated():
            return await self._store.getsize_prefix(prefix)
