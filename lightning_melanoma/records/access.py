"""Whom a bucket lets read, and what its errors mean to a user.

A bucket is asked anonymously first; only when it denies that, the machine's own credentials are
used (Google's application default credentials, AWS's chain), and what it accepted is remembered.
Settings of the user's for fsspec (``FSSPEC_GS_TOKEN``, ``~/.config/fsspec``) go before both.
"""

import logging
import os
import urllib.parse
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import fsspec

from lightning_melanoma.records.stopping import StoppedError

_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "s3a": "s3fs"}
# The options of fsspec that say who is asking.
_IDENTITY = {"token", "anon", "key", "secret", "profile"}
# Statuses of "who are you?" and of "not you".
_DENIED = (401, 403)
# Of google.auth and botocore, which need not be installed.
_CREDENTIALS_ERRORS = {"GoogleAuthError", "NoCredentialsError"}
# Read by gcsfs when it is imported.
_GCSFS_SWITCH = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"

_T = TypeVar("_T")

# By scheme and bucket, which of `_identities` it accepted.
_accepted: dict[str, int] = {}


class UnreachableError(OSError):
    """A request was made again and again, and failed each time."""


def is_local(path: str) -> bool:
    """Tell whether a path is one of this machine's, not a URL."""
    return "://" not in path


def scheme_of(url: str) -> str:
    """Return the scheme of a path or URL, of a chain of URLs the last one's."""
    return "file" if is_local(url) else url.rpartition("::")[2].partition("://")[0]


def ask(url: str, action: Callable[[Any, str], _T]) -> _T:
    """Return what an action on the file system behind a path or URL, and the path in it, gives.

    Raises:
        FileNotFoundError: there is no such file, folder or bucket.
        ValueError: fsspec does not know the scheme, or its package is not installed.
        OSError: reading is not allowed, or the place cannot be reached.
    """
    scheme = scheme_of(url)
    bucket = f"{scheme}://{urllib.parse.urlsplit(url.rpartition('::')[2]).netloc}"
    try:
        identities = _identities(scheme)
    except ImportError:
        _fail(url, ImportError())
    first = _accepted.get(bucket, 0)
    for number in range(first, len(identities)):
        try:
            filesystem, root = fsspec.core.url_to_fs(url, **{scheme: dict(identities[number])})
            answer = action(filesystem, root)
        except StoppedError:
            raise
        except Exception as error:
            if number + 1 < len(identities) and _is_denied(error):
                continue
            _fail(url, error)
        _accepted[bucket] = number
        return answer
    raise AssertionError("each scheme has an identity")


def read_whole(url: str) -> bytes:
    """Return what is in the file at a path or URL, unpacked where its name says that it is packed.

    Raises:
        OSError: as `ask` does.
        ValueError: likewise.
    """

    def read(filesystem: Any, root: str) -> bytes:  # noqa: ANN401 - fsspec's have no types
        with filesystem.open(root, "rb", compression="infer") as stream:
            data: bytes = stream.read()
        return data

    return ask(url, read)


def _identities(scheme: str) -> list[dict[str, Any]]:
    """Return the options of a scheme's file system, as one after the other is to be tried."""
    if scheme in ("gs", "gcs"):
        return _google_identities()
    if scheme in ("s3", "s3a"):
        common = {"use_listings_cache": False}
        return [common] if _is_configured(scheme) else [{**common, "anon": True}, common]
    if scheme in ("http", "https"):
        from lightning_melanoma.records.repeating import TIMEOUT, repeat_request

        return [{"client_kwargs": {"middlewares": (repeat_request,), "timeout": TIMEOUT}}]
    return [{}]


def _google_identities() -> list[dict[str, Any]]:
    from lightning_melanoma.records.repeating import TIMEOUT, repeat_request

    _use_plain_gcsfs()
    # It logs tracebacks of the errors that it raises as well.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    common = {
        "access": "read_only",
        # A listing that is kept would hide that a shard has changed.
        "use_listings_cache": False,
        "requests_timeout": TIMEOUT,
        "session_kwargs": {"middlewares": (repeat_request,)},
    }
    anonymous = {**common, "token": "anon"}
    # An emulator knows nobody, and must not be sent real credentials, whatever is configured.
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return [anonymous]
    if _is_configured("gs") or _is_configured("gcs"):
        return [common]
    return [anonymous, {**common, "token": "google_default"}]


def _use_plain_gcsfs() -> None:
    """Take the half of gcsfs that speaks HTTP, for this process.

    The other half, which is for Rapid Storage, asks each bucket by gRPC what kind it is, again and
    again where that is denied. gcsfs's own variable chooses it, but Lightning may have imported
    gcsfs before anybody could set it.
    """
    if os.environ.setdefault(_GCSFS_SWITCH, "false").lower() not in ("true", "1"):
        from gcsfs.core import GCSFileSystem

        for scheme in ("gs", "gcs"):
            fsspec.register_implementation(scheme, GCSFileSystem, clobber=True)


def _is_configured(scheme: str) -> bool:
    return bool(_IDENTITY & set(fsspec.config.conf.get(scheme, {})))


def _chain(error: BaseException) -> list[BaseException]:
    links = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__
    return links


def _is_denied(error: BaseException) -> bool:
    return any(
        isinstance(link, PermissionError)
        or str(link).startswith("Forbidden")
        or _status(link) in _DENIED
        for link in _chain(error)
    )


def _status(error: BaseException) -> object:
    # aiohttp's errors have a status, gcsfs's a code.
    return error.status if hasattr(error, "status") else getattr(error, "code", None)


def _fail(url: str, error: Exception) -> NoReturn:
    """Raise what a user can understand of an error of fsspec or of what stands behind it."""
    if is_local(url):
        raise error
    links = _chain(error)
    scheme = scheme_of(url)
    reason = " ".join(str(links[-1]).split()) or type(links[-1]).__name__
    if isinstance(error, ImportError):
        package = _PACKAGES.get(scheme)
        found = f"the package {package}" if package else f"a package that reads {scheme}://"
        way = f": pip install {package}" if package else f" ({reason})"
        raise ValueError(f"{url}: expected {found}, found none; install it{way}") from error
    if isinstance(error, ValueError) and "Protocol not known" in str(error):
        raise ValueError(
            f"{url}: expected a path, gs://, s3://, https:// or another scheme that fsspec knows, "
            f"found {scheme}://"
        ) from error
    if _is_denied(error) or _CREDENTIALS_ERRORS & {kind.__name__ for kind in type(error).__mro__}:
        raise PermissionError(
            f"{url}: expected leave to read it, found none ({reason}); log in with "
            "`gcloud auth application-default login` or `aws configure`, or name another place"
        ) from error
    given_up = [link for link in links if type(link).__name__ == "GivenUpError"]
    if given_up:
        raise UnreachableError(f"{url}: expected an answer, found {given_up[0]}") from error
    if isinstance(error, FileNotFoundError):
        raise FileNotFoundError(f"{url}: expected a file, a folder or a bucket, found none") from (
            error
        )
    raise OSError(
        f"{url}: expected to read it, found {type(links[-1]).__name__} ({reason})"
    ) from error
