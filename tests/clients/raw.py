"""Requests as no SDK would send them: signed by hand (Signature Version 4), sent as they are."""

import datetime
import hashlib
import hmac
import http.client
import re
import threading
from dataclasses import dataclass, field

from support import ACCESS_KEY, REGION, SECRET_KEY

UNSIGNED = "UNSIGNED-PAYLOAD"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
# Bytes in one chunk of a framed body.
CHUNK = 256 * 1024
# One connection per thread and server.
KEPT = threading.local()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def mac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


@dataclass
class Signature:
    """A request's, which the chunks of its body go on from."""

    time: str
    value: str

    @property
    def scope(self):
        return f"{self.time[:8]}/{REGION}/s3/aws4_request"

    def sign(self, algorithm, *lines):
        key = f"AWS4{SECRET_KEY}".encode()
        for word in self.scope.split("/"):
            key = mac(key, word)
        self.value = mac(key, "\n".join([algorithm, self.time, self.scope, *lines])).hex()
        return self.value

    def chunk(self, data):
        algorithm = "AWS4-HMAC-SHA256-PAYLOAD"
        return self.sign(algorithm, self.value, sha256(b""), sha256(data))

    def trailer(self, lines):
        return self.sign("AWS4-HMAC-SHA256-TRAILER", self.value, sha256(lines.encode()))


def sign(method, target, headers):
    """Adds x-amz-date and Authorization; the signature."""
    signature = Signature(
        datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ"), ""
    )
    headers["x-amz-date"] = signature.time
    path, _, query = target.partition("?")
    query = "&".join(
        sorted(pair if "=" in pair else f"{pair}=" for pair in query.split("&") if pair)
    )
    signed = sorted((name.lower(), value) for name, value in headers.items())
    names = ";".join(name for name, _ in signed)
    payload = headers.get("x-amz-content-sha256", UNSIGNED)
    lines = [f"{name}:{value}" for name, value in signed]
    canonical = "\n".join([method, path, query, *lines, "", names, payload])
    signature.sign("AWS4-HMAC-SHA256", sha256(canonical.encode()))
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{signature.scope},"
        f"SignedHeaders={names},Signature={signature.value}"
    )
    return signature


def framed(body, trailers, signature=None):
    """An aws-chunked body that ends in the lines `trailers`; signed, if it goes on from one."""
    pieces = []
    for at in [*range(0, len(body), CHUNK), len(body)]:
        data = body[at : at + CHUNK]
        extension = f";chunk-signature={signature.chunk(data)}" if signature else ""
        pieces += [f"{len(data):x}{extension}\r\n".encode(), data, b"\r\n" if data else b""]
    if signature:
        signed = signature.trailer("".join(f"{line}\n" for line in trailers))
        trailers = [*trailers, f"x-amz-trailer-signature:{signed}"]
    return b"".join([*pieces, *(f"{line}\r\n".encode() for line in trailers), b"\r\n"])


def framed_length(body, trailers, signed):
    """Of what `framed` makes."""
    extension = len(";chunk-signature=") + 64 if signed else 0
    lines = [*trailers, *(["x-amz-trailer-signature:" + 64 * "0"] if signed else [])]
    length = len("0\r\n") + extension + sum(len(line) + 2 for line in lines) + 2
    for at in range(0, len(body), CHUNK):
        size = min(CHUNK, len(body) - at)
        length += len(f"{size:x}") + extension + 2 + size + 2
    return length


@dataclass
class Answer:
    status: int
    headers: dict = field(default_factory=dict)
    body: bytes = b""

    @property
    def code(self):
        found = re.search(rb"<Code>(\w+)</Code>", self.body)
        return found.group(1).decode() if found else ""

    def __str__(self):
        return f"{self.status} {self.code}".rstrip()


def send(
    endpoint, method, target, headers, body=b"", trailers=None, chunked=False, http_trailers=b""
):
    """Signs and sends one request; its answer.

    `trailers`: lines that follow the body in aws-chunked framing. `chunked`: without
    Content-Length, and `http_trailers` after it.
    """
    host = endpoint.removeprefix("http://")
    headers = {"Host": host, **headers}
    mode = headers.get("x-amz-content-sha256", "")
    if trailers is not None and not chunked:
        length = framed_length(body, trailers, mode == SIGNED_TRAILER)
    else:
        length = len(body)
    if chunked:
        headers["Transfer-Encoding"] = "chunked"
    else:
        headers["Content-Length"] = str(length)
    signature = sign(method, target, headers)
    if trailers is not None:
        body = framed(body, trailers, signature if mode == SIGNED_TRAILER else None)
    if chunked:
        pieces = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
        pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
        body = b"".join([*pieces, b"0\r\n", http_trailers, b"\r\n"])
    return exchange(host, method, target, headers, body)


def exchange(host, method, target, headers, body):
    connections = KEPT.__dict__
    connection = connections.setdefault(host, http.client.HTTPConnection(host, timeout=60))
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    try:
        connection.send(body)
    except (BrokenPipeError, ConnectionResetError):
        # The answer came before the body was sent.
        pass
    response = connection.getresponse()
    answer = Answer(response.status, {}, response.read())
    answer.headers = {name.lower(): value for name, value in response.getheaders()}
    if response.will_close:
        connections.pop(host).close()
    return answer


def element(document, name):
    """The text of an XML element."""
    return re.search(rf"<{name}>(.*?)</{name}>", document.decode()).group(1)
