"""Credentials stay out of whatever is shown: URLs that hold some are refused, errors are told without them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from voxstack.errors import InputError, VoxstackError

_LONGEST = 400  # letters of an error of another program

_NOT_ENCRYPTED = (
    '(obstore speaks https only, unless storage_options allow http: {"client_options": {"allow_http": true}})'
)

_IN_ARGUMENTS = (
    (re.compile(r"(?<=://)[^/@\s]+@"), "***@"),  # user and password in a URL
    (re.compile(r"(?<=[?&])([^=&#\s]+)=[^&#\s]+"), r"\1=***"),  # signatures in a URL's query
    (re.compile(r"(?i)^([\w.-]*(?:key|secret|token|password|credential|signature|sas)[\w.-]*)=.+", re.S), r"\1=***"),
)

_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")  # as S3 and Azure say it of a listing

StorageOptions = Mapping[str, Any]


def refuse_credentials(given: object) -> None:
    """Raise `InputError` for a URL that holds a password, or what may be a token: URLs end up in messages and logs.

    Whatever else users give, of any type, is let pass.
    """
    if "://" not in (url := str(given)):
        return
    # A password may hold any letter, a slash too. Digits behind a colon may be its beginning, or a port, which only the
    # web's URLs are likely to have, as they are to have an @ in their path.
    with_password = re.search(r"://[^/@]*:[^@]*@", re.sub(r"(https?://[^/@:]*):\d+(?=/|$)", r"\1", url))
    # az://container@account is a place; a name alone may be a token elsewhere.
    with_token = re.search(r"https?://[^/]*@", url)
    behind = next((what for sign, what in (("?", "query"), ("#", "fragment")) if sign in url), None)
    if with_password or with_token or behind:
        what = f"a {behind}, which may be a token" if behind else "a user or a password"
        scheme = re.search(r"[A-Za-z][\w+.-]*(?=://)", url)
        raise InputError(
            f"A URL ({scheme.group() if scheme else ''}://...) holds {what}. URLs are shown in messages and logs, so "
            "give credentials as storage_options, or by the environment variables of the protocol."
        )


@contextmanager
def errors_as_of_files(url: str, storage_options: StorageOptions) -> Iterator[None]:
    """Each protocol has exceptions of its own, which may quote any option: here they are `OSError`s without secrets."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"there is nothing at {url}") from None
    except VoxstackError:
        raise
    except Exception as error:
        if any(code in str(error) for code in _NO_BUCKET):
            raise OSError(f"there is no bucket or container {url.split('/')[2]}") from None
        raise OSError(_told(error, storage_options)) from None
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        # obstore panics at some options that it does not know.
        raise OSError(f"obstore cannot use what it was given: {_told(error, storage_options)}.") from None


def _told(error: BaseException, storage_options: StorageOptions) -> str:
    """What went wrong, in one line."""
    text = str(error).partition("\n\nDebug source")[0]
    for secret in sorted(set(_texts(storage_options)), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r"(://[^\s\"'<>?]*)\?[^\s\"'<>]*", r"\1", text)  # signed queries
    text = " ".join(re.sub(r"//[^/\s]*@", "//***@", text).split()) or type(error).__name__
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return f"{text} {_NOT_ENCRYPTED}" if "builder error" in text and "http://" in text else text


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


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """A command line as it may be written down: what may be a secret becomes ``***``.

    These are users, passwords and queries in URLs, and the value of ``NAME=VALUE`` where the name speaks of a key, a
    token, a password or the like.
    """
    kept = []
    for argument in arguments:
        for pattern, instead in _IN_ARGUMENTS:
            argument = pattern.sub(instead, argument)
        kept.append(argument)
    return kept
