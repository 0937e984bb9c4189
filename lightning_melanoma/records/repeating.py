"""Repeat requests to a bucket or web server that failed for a moment, and count them.

A client middleware of aiohttp, on which the file systems of ``gs://`` and ``https://`` stand. A
request is made again after a time-out, a lost connection, a status that says "later", or a body
that is shorter than its own header says; with exponential back-off and jitter, as
https://cloud.google.com/storage/docs/retry-strategy asks for. ``s3://`` repeats by itself.
"""

import asyncio
import itertools
import logging
import random
import re
import threading

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

#: How often a request is made before it is given up: the waits add up to a minute.
NUM_TRIES = 9
#: Seconds before the first repetition, at most; each further one waits up to twice as long...
FIRST_WAIT = 0.5
# ...up to this many seconds.
_LONGEST_WAIT = 30.0
# From this failure of a request on, the user is told.
_SPOKEN_OF = 4
# Request time-out, too many requests, and the server's own failures but "not implemented".
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
#: A server that says nothing for so many seconds is given up. No limit for a whole transfer.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=30)

_log = logging.getLogger(__name__)


class GivenUpError(Exception):
    """A request failed as often as it was made. No OSError: aiohttp would make another of it."""


class _Tally:
    """Counts requests; a lock, since file systems run in threads of their own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {"requests": 0, "repeated": 0}

    def add(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def take(self) -> tuple[int, int]:
        """Return the requests made and those repeated since the last time."""
        with self._lock:
            counts = self._counts["requests"], self._counts["repeated"]
            self._counts = dict.fromkeys(self._counts, 0)
        return counts


#: Of this process.
tally = _Tally()
# Not the global generator: training may depend on that.
_jitter = random.Random()


async def repeat_request(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Make a request until its answer is whole, as a middleware of aiohttp.

    Raises:
        GivenUpError: it was not, `NUM_TRIES` times.
    """
    for number in itertools.count(1):
        tally.add("requests")
        try:
            response = await handler(request)
            fault = await _fault(request, response)
            if fault is None:
                return response
            response.close()
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            fault = str(error) or type(error).__name__
        if number == NUM_TRIES:
            raise GivenUpError(f"{fault}, {NUM_TRIES} times")
        tally.add("repeated")
        if number == _SPOKEN_OF:
            _log.warning("%s: no whole answer yet (%s); trying on", request.url.host, fault)
        longest = min(_LONGEST_WAIT, FIRST_WAIT * 2 ** (number - 1))
        await asyncio.sleep(longest * _jitter.uniform(0.5, 1.0))
    raise AssertionError("counting ends")


async def _fault(request: ClientRequest, response: ClientResponse) -> str | None:
    if response.status in _TRANSIENT:
        return f"status {response.status}"
    is_range = "Range" in request.headers
    # Whole objects are left to be streamed.
    if is_range or response.content_type in ("application/json", "text/html"):
        # The response keeps what it has read for whoever asks next.
        body = await response.read()
        span = re.match(r"bytes (\d+)-(\d+)/", response.headers.get("Content-Range", ""))
        if is_range and response.status == 206 and span:
            promised = int(span[2]) - int(span[1]) + 1
            if len(body) != promised:
                return f"{len(body)} of {promised} bytes"
    return None
