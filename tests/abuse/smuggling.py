"""Requests whose end two readers may see at different places.

Each one is sent with a complete second request behind it, or inside of it. Of a refused one nothing may be executed,
and nothing after it: the connection is closed.
"""

from __future__ import annotations

from typing import Final

_END: Final = "0\r\n\r\n"
"""The end of a chunked body."""

FRAMES: Final[dict[str, str]] = {
    "length and chunked": f"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{_END}",
    "chunked and length": f"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n{_END}",
    "two lengths": "Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "two equal lengths": "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": "Content-Length: 0, 0\r\n\r\n",
    "a length with a plus": "Content-Length: +0\r\n\r\n",
    "a length with a minus": "Content-Length: -0\r\n\r\n",
    "a hexadecimal length": "Content-Length: 0x0\r\n\r\n",
    "a length with an underscore": "Content-Length: 0_0\r\n\r\n",
    "a length in other digits": "Content-Length: \u0660\r\n\r\n",
    "an empty length": "Content-Length: \r\n\r\n",
    "two numbers as length": "Content-Length: 0 0\r\n\r\n",
    "a length beyond 64 bits": "Content-Length: 18446744073709551616\r\n\r\n",
    "a coding that is none": f"Transfer-Encoding: xchunked\r\n\r\n{_END}",
    "chunked twice": f"Transfer-Encoding: chunked, chunked\r\n\r\n{_END}",
    "chunked twice in two fields": f"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{_END}",
    "chunked after identity": f"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n{_END}",
    "chunked, not at the end": f"Transfer-Encoding: chunked, identity\r\n\r\n{_END}",
    "identity": f"Transfer-Encoding: identity\r\n\r\n{_END}",
    "gzip below chunked": f"Transfer-Encoding: gzip, chunked\r\n\r\n{_END}",
    "chunked with a parameter": f"Transfer-Encoding: chunked;q=1\r\n\r\n{_END}",
    "chunked behind a vertical tab": f"Transfer-Encoding: \x0bchunked\r\n\r\n{_END}",
    "chunked in quotes": f'Transfer-Encoding: "chunked"\r\n\r\n{_END}',
    "an empty coding": f"Transfer-Encoding: \r\n\r\n{_END}",
    "a blank before the colon": f"Transfer-Encoding : chunked\r\n\r\n{_END}",
    "a field that hides behind a line feed": f"X: a\nTransfer-Encoding: chunked\r\n\r\n{_END}",
    "a field that hides behind a carriage return": f"X: a\rTransfer-Encoding: chunked\r\n\r\n{_END}",
    "a head that ends with a line feed": "Content-Length: 0\r\n\n",
    "a folded field": "X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
    "a folded coding": f"Transfer-Encoding:\r\n chunked\r\n\r\n{_END}",
    "NUL in a value": "X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "NUL in a name": "X\0: a\r\nContent-Length: 0\r\n\r\n",
    "a field without a name": ": a\r\nContent-Length: 0\r\n\r\n",
    "a line without a colon": "abc\r\nContent-Length: 0\r\n\r\n",
    "another host": "Host: other\r\nContent-Length: 0\r\n\r\n",
    "a size that ends with a line feed": f"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n{_END}",
    "a hexadecimal prefix": f"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n{_END}",
    "a size with a plus": f"Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n{_END}",
    "a size with a minus": f"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n{_END}",
    "a size with an underscore": f"Transfer-Encoding: chunked\r\n\r\n0_5\r\nhello\r\n{_END}",
    "a size with a blank": f"Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n{_END}",
    "a size beyond 64 bits": f"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nhello\r\n{_END}",
    "no size": f"Transfer-Encoding: chunked\r\n\r\n\r\nhello\r\n{_END}",
    "a chunk longer than its size": f"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX{_END}",
    "a chunk that ends with a line feed": f"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n{_END}",
    "an extension that ends with a line feed": "Transfer-Encoding: chunked\r\n\r\n0;a\n\r\n\r\n",
    "an extension with a carriage return": f"Transfer-Encoding: chunked\r\n\r\n5;a\rb\r\nhello\r\n{_END}",
    "an extension with a line feed in quotes": f'Transfer-Encoding: chunked\r\n\r\n5;a="\n"\r\nhello\r\n{_END}',
    "a length as trailer": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n",
    "a coding as trailer": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a trailer that ends with a line feed": "Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\n\r\n",
    "a trailer without a colon": "Transfer-Encoding: chunked\r\n\r\n0\r\nabc\r\n\r\n",
    "NUL in a trailer": "Transfer-Encoding: chunked\r\n\r\n0\r\nX: \0\r\n\r\n",
}
"""What follows the fields of a valid PATCH of five bytes at offset 0, body included."""

HEADS: Final[dict[str, str]] = {
    "line feeds only": "PATCH {path} HTTP/1.1\nHost: x\nTus-Resumable: 1.0.0\nContent-Length: 0\n\n",
    "a folded first field": "PATCH {path} HTTP/1.1\r\n Content-Length: 0\r\nHost: x\r\n\r\n",
    "no host": "PATCH {path} HTTP/1.1\r\nTus-Resumable: 1.0.0\r\nContent-Length: 0\r\n\r\n",
    "NUL in the target": "PATCH {path}\0 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "a target with a blank": "PATCH {path} x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "chunked in HTTP/1.0": "PATCH {path} HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n"
    f"Transfer-Encoding: chunked\r\n\r\n{_END}",
    "chunked in HTTP/1.0 for OPTIONS": "OPTIONS {path} HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n"
    f"Transfer-Encoding: chunked\r\n\r\n{_END}",
    "gzip below chunked for health": "GET /livez HTTP/1.1\r\nHost: x\r\n"
    f"Transfer-Encoding: gzip, chunked\r\n\r\n{_END}",
    "HTTP/1.2": "PATCH {path} HTTP/1.2\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2 without saying so": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a version of three digits": "PATCH {path} HTTP/1.10\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "TLS": "\x16\x03\x01\x02\r\n\r\n",
}
"""Whole requests."""

_PATCH: Final = (
    "PATCH {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n"
    "Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\n"
)


def corpus(path: str) -> dict[str, bytes]:
    """Return all of them by name, for the upload at `path`."""
    requests = HEADS | {name: _PATCH + frame for name, frame in FRAMES.items()}
    return {name: request.replace("{path}", path).encode() for name, request in requests.items()}


def deleting(path: str) -> bytes:
    """Return the request that is smuggled: it shows when it is executed, and ends its connection."""
    return f"DELETE {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nConnection: close\r\n\r\n".encode()
