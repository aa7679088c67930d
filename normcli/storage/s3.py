"""Objects of S3, or of any server with its protocol: bodies are read up to a bound, not to a length that they state.

s3fs reads a body to its end; an endpoint may be anybody's, and a body endless.
"""

from collections.abc import Mapping
from typing import Any

from normcli.errors import InputError

_PIECE = 1 << 20


def read(system: Any, name: str, most: int) -> bytes:
    """Read a complete object.

    Raises:
        InputError: it has more than `most` bytes.
        OSError: and botocore's errors, as the server answers.
    """
    too_large = InputError("too-large", f"more than the limit of {most} bytes (--max-file-size)")
    return _body(system, name, {}, most, too_large)


def read_range(system: Any, name: str, offset: int, size: int) -> bytes:
    """Read a range of an object; fewer bytes only if it ends.

    Raises:
        InputError: the server sends more than was asked for.
        OSError: and botocore's errors, as the server answers.
    """
    too_long = InputError("damaged", "the server sends more than the requested range")
    return _body(system, name, {"Range": f"bytes={offset}-{offset + size - 1}"}, size, too_long)


def _body(system: Any, name: str, request: Mapping[str, str], most: int, too_long: InputError) -> bytes:
    from fsspec.asyn import sync

    async def ask() -> bytes:
        bucket, key, version = system.split_path(name)
        versioned = {"VersionId": version} if version else {}
        answer = await system._call_s3("get_object", Bucket=bucket, Key=key, **versioned, **request)
        body = answer["Body"]
        try:
            if answer.get("ContentLength", 0) > most:
                raise too_long
            parts, total = [], 0
            while part := await body.read(_PIECE):
                parts.append(part)
                total += len(part)
                if total > most:
                    raise too_long
            return b"".join(parts)
        finally:
            body.close()

    return sync(system.loop, ask)  # type: ignore[no-any-return]
