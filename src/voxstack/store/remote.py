"""Object stores as Zarr stores: each change in one request, and errors of one kind that show no credentials."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.storage import FsspecStore, ObjectStore, WrapperStore

from voxstack.errors import StoreError
from voxstack.io.objects import by_obstore, obstore_client
from voxstack.io.secrets import StorageOptions, errors_as_of_files

_ATTEMPTS = 4  # at what obstore does not retry
_PAUSE = 0.1  # seconds behind the first one; three times as long behind each other one


def open_remote(url: str, storage_options: StorageOptions, *, read_only: bool) -> Store:
    """The Zarr store at a URL, through obstore or fsspec; `StoreError` where that cannot be."""
    try:
        with errors_as_of_files(url, storage_options):
            return RemoteStore(_inner(url, storage_options, read_only), url, storage_options)
    except OSError as error:
        raise StoreError(
            f"{url} cannot be opened: {error} Use a folder, or the URL of an object store such as "
            "s3://bucket/cohort.zarr with the storage_options that it needs."
        ) from None


def _inner(url: str, storage_options: StorageOptions, read_only: bool) -> Store:
    if by_obstore(url):
        return ObjectStore(obstore_client(url, storage_options), read_only=read_only)
    return FsspecStore.from_url(url, storage_options=dict(storage_options), read_only=read_only)


class RemoteStore(WrapperStore[Store]):
    """An object store.

    Parameters
    ----------
    store
        Of obstore or fsspec.
    url, storage_options
        Where it is.
    """

    def __init__(self, store: Store, url: str, storage_options: StorageOptions) -> None:
        super().__init__(store)
        self._url, self._storage_options = url, storage_options

    def _with_store(self, store: Store) -> "RemoteStore":
        return RemoteStore(store, self._url, self._storage_options)

    def _translated(self) -> AbstractContextManager[None]:
        return errors_as_of_files(self._url, self._storage_options)

    def __repr__(self) -> str:
        return f"RemoteStore({self._store})"

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """What a key holds, or part of it."""
        with self._translated():
            return await self._store.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Whether a key is there."""
        with self._translated():
            return await self._store.exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key in one request: of one in parts that is stopped, the parts would stay, unseen and paid for."""
        with self._translated():
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
        with self._translated():
            for attempt in range(_ATTEMPTS - 1):
                try:
                    await change(*arguments)
                    return
                except Exception:
                    await asyncio.sleep(_PAUSE * 3**attempt)
            await change(*arguments)

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        with self._translated():
            async for key in self._store.list():
                yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that begin so."""
        with self._translated():
            async for key in self._store.list_prefix(prefix):
                yield key

    async def getsize_prefix(self, prefix: str) -> int:
        """Bytes of the keys that begin so."""
        with self._translated():
            return await self._store.getsize_prefix(prefix)
