"""One question to a service over HTTP: asked again while it is busy, until it answers or says that it never will.

What is asked again, and how long after, follows the client that OpenAI publishes: 408, 409, 429, 5xx, lost and slow
connections, after `Retry-After` or else twice as long each time, with some jitter. Redirections are not followed, as
they would take the key along.
"""

import http.client
import json
import logging
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from llm_jax.core import checks
from llm_jax.core.table import UserError

log = logging.getLogger(__name__)

BUSY = (408, 409, 429)
FIRST_PAUSE, LAST_PAUSE, LONGEST_WAIT = 0.5, 30.0, 600.0  # seconds
LARGEST = 1 << 26  # bytes of an answer
SHOWN = 200  # characters of what a service says of an error
LOOPBACK = ("localhost", "127.0.0.1", "::1")
WAYS_OUT = {
    401: "set the environment variable of the key (--key_from names it) to a key of this service",
    403: "this key may not do that; take another one (--key_from names its environment variable) or another --model",
    404: "give the --url that ends before /chat/completions, usually in /v1, and a --model that the service has",
}


class Unanswered(Exception):
    """It may answer if it is asked again. after: seconds that it wants to be left alone for."""

    def __init__(self, what: str, after: float | None = None):
        super().__init__(what)
        self.after = after


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Service:
    """Where it is asked.

    url: of the interface, such as https://api.openai.com/v1. key: what it is asked with, never written or logged.
    timeout: seconds for one answer. retries: how often it is asked again. pause: waits so many seconds.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 300.0
    retries: int = 6
    pause: Callable[[float], object] = time.sleep

    def __post_init__(self) -> None:
        checks.positive("label", timeout=self.timeout)
        checks.non_negative("label", retries=self.retries)
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--url={self.url!r} must be an address such as https://api.openai.com/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UserError(
                "--url must be a plain address, without a name, a password, ? or #; a key goes by --key_from"
            )
        if self.key and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise UserError(
                f"--url={self.url} would send the key unencrypted; give https://, or no key: --key_from=NONE"
            )

    def ask(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Any]) -> Any:
        """Return what `read` makes of the JSON that comes back; it raises `Unanswered` where that is no whole answer.

        Args:
            path: below `url`, such as "chat/completions".
            body: sent as JSON.
            read: JSON value -> answer.

        Raises:
            UserError: the service refuses, or does not answer in `retries` + 1 times; the message names its address.
        """
        where = f"{self.url.rstrip('/')}/{path}"
        for number in range(self.retries + 1):
            try:
                return read(self._post(where, json.dumps(body).encode()))
            except Unanswered as error:
                usual = min(LAST_PAUSE, FIRST_PAUSE * 2**number) * random.uniform(0.75, 1.0)
                wait, said = usual if error.after is None else error.after, str(error)
            if wait > LONGEST_WAIT:
                raise UserError(f"{where}: {said}; it asks to be left alone for {wait:.0f} s; come back after that")
            if number < self.retries:
                log.warning("%s: %s; asking again in %.1f s", where, said, wait)
                self.pause(wait)
        raise UserError(
            f"{where}: {said}, {self.retries + 1} times; see that a service runs at --url, ask less at a time "
            "(--concurrency), wait longer (--timeout, --retries), then run the same command again"
        )

    def _post(self, where: str, body: bytes) -> Any:
        """Return the JSON of one answer.

        Raises:
            Unanswered: it was busy, lost, too slow, or came in part.
            UserError: the service refuses.
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(where, body, headers, method="POST")  # http or https, as was checked
        deadline = time.monotonic() + self.timeout
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=self.timeout) as response:
                return json.loads(_whole(response, deadline, where))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error, where, deadline) from None
        except TimeoutError:
            raise Unanswered(f"no answer within {self.timeout:g} s") from None
        except urllib.error.URLError as error:
            raise Unanswered(str(error.reason)) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(f"the connection broke ({type(error).__name__})") from None
        except (ValueError, RecursionError):
            raise Unanswered("the answer is no JSON") from None

    def _refusal(self, error: urllib.error.HTTPError, where: str, deadline: float) -> Exception:
        try:
            told = _told(_whole(error, deadline, where))
        except (OSError, http.client.HTTPException):
            told = ""
        if self.key:
            told = told.replace(self.key, "…")
        said = f"{error.code} {http.client.responses.get(error.code, '')}".strip() + (
            f": {told!r:.{SHOWN}}" if told else ""
        )
        if error.code in BUSY or error.code >= 500:
            return Unanswered(said, _after(error.headers.get("Retry-After")))
        way = WAYS_OUT.get(error.code, "mend what it names" if error.code >= 400 else "give the --url that it sends to")
        return UserError(f"{where}: {said}; {way}")


def key_from(variable: str) -> str | None:
    """Return the key in an environment variable, None where it is not set or empty.

    Raises:
        UserError: it could not be sent in a header.
    """
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable():
        raise UserError(
            f"the environment variable {variable} holds no key: it has other than printable ASCII characters"
        )
    return key or None


def _whole(response: Any, deadline: float, where: str) -> bytes:
    """Return all bytes of a response, however slowly they come."""
    parts, size = [], 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError
        if size > LARGEST:
            raise UserError(
                f"{where}: the answer is larger than {LARGEST >> 20} MiB; is this the address of a service?"
            )
    return b"".join(parts)


def _told(raw: bytes) -> str:
    """Return what an error says: OpenAI's `error.message`, else the text."""
    text = raw.decode("utf-8", "replace").strip()
    try:
        value = json.loads(text)
        found = value["error"] if "error" in value else value.get("message", value.get("detail"))
        return str(found.get("message", found) if isinstance(found, dict) else found or text)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return text


def _after(header: str | None) -> float | None:
    """Return the seconds of a `Retry-After`: a number of them, or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when.tzinfo else None
