"""An S3 in this process that keeps in memory what it is sent, and what was said of it.

Strict as Amazon's: x-amz-content-sha256, Content-MD5, checksums in headers and trailers, and a
checksum over the whole of a multipart upload are held against the bytes before anything is stored.
(moto never looks, and the embedded backend looks when the object is already there.) Or believing:
it stores whatever it is told, so what is refused the gateway has refused. Signatures are not
looked at.
"""

import base64
import hashlib
import re
import sys
import threading
import urllib.parse
import zlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from awscrt import checksums as crt

# S3's name of each checksum, and its digest.
DIGESTS = {
    "CRC32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "CRC32C": lambda body: crt.crc32c(body).to_bytes(4, "big"),
    "CRC64NVME": lambda body: crt.crc64nvme(body).to_bytes(8, "big"),
    "SHA1": lambda body: hashlib.sha1(body).digest(),
    "SHA256": lambda body: hashlib.sha256(body).digest(),
}
UNIT = re.compile(rb"<PartNumber>(\d+)</PartNumber>")


def digest(name, body):
    """A checksum as a header's value."""
    return base64.b64encode(DIGESTS[name](body)).decode()


def content_md5(body):
    return base64.b64encode(hashlib.md5(body).digest()).decode()


@dataclass
class Stored:
    """An object, or a part of an upload that is open."""

    body: bytes
    etag: str
    # Of an object: the metadata that it came with.
    headers: dict = field(default_factory=dict)
    # By name, the value.
    checksums: dict = field(default_factory=dict)
    parts: int = 0


@dataclass
class Upload:
    key: str
    headers: dict
    parts: dict = field(default_factory=dict)


class Refused(Exception):
    def __init__(self, code, status=400):
        super().__init__(code)
        self.code = code
        self.status = status


class StrictS3:
    """One server with one bucket, whatever it is called."""

    def __init__(self, strict=True):
        self.strict = strict
        self.objects = {}
        self.uploads = {}
        self.begun = 0
        self.lock = threading.Lock()
        self.server = Server(("127.0.0.1", 0), handler(self))
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def open_uploads(self, key):
        """The multipart uploads of `key` that were neither completed nor aborted."""
        with self.lock:
            return [upload for upload in self.uploads.values() if upload.key == key]

    def received(self, body, headers):
        """What was said of a body, as it is stored."""
        said = {name: headers.get(f"x-amz-checksum-{name.lower()}") for name in DIGESTS}
        said = {name: value for name, value in said.items() if value}
        if self.strict:
            self.verify(body, headers, said)
        kept = {name: value for name, value in headers.items() if name.startswith("content-")}
        return Stored(body, hashlib.md5(body).hexdigest(), kept, said)

    def verify(self, body, headers, said):
        sha256 = headers["x-amz-content-sha256"]
        if re.fullmatch("[0-9a-f]{64}", sha256) and sha256 != hashlib.sha256(body).hexdigest():
            raise Refused("XAmzContentSHA256Mismatch")
        if headers.get("content-md5") not in (None, content_md5(body)):
            raise Refused("BadDigest")
        for name, value in said.items():
            if value != digest(name, body):
                raise Refused("BadDigest")
        # "there must be a corresponding x-amz-checksum-algorithm or x-amz-trailer header sent.
        # Otherwise, Amazon S3 fails the request" (S3 API Reference, PutObject and UploadPart).
        if headers.get("x-amz-sdk-checksum-algorithm", "none") not in [*said, "none"]:
            raise Refused("InvalidRequest")

    def put(self, key, query, body, headers):
        stored = self.received(body, headers)
        with self.lock:
            if "uploadId" in query:
                upload = self.uploads.get(query["uploadId"])
                if upload is None:
                    raise Refused("NoSuchUpload", 404)
                upload.parts[int(query["partNumber"])] = stored
            else:
                self.objects[key] = stored
        return stored

    def create(self, key, headers):
        with self.lock:
            self.begun += 1
            self.uploads[f"upload-{self.begun}"] = Upload(key, headers)
            return f"upload-{self.begun}"

    def complete(self, key, query, document, headers):
        with self.lock:
            upload = self.uploads.get(query["uploadId"])
        if upload is None:
            raise Refused("NoSuchUpload", 404)
        parts = [upload.parts[int(number)] for number in UNIT.findall(document)]
        body = b"".join(part.body for part in parts)
        said = {name: headers.get(f"x-amz-checksum-{name.lower()}") for name in DIGESTS}
        said = {name: value for name, value in said.items() if value}
        if self.strict:
            if headers.get("x-amz-mp-object-size") not in (None, str(len(body))):
                raise Refused("InvalidRequest")
            for name, value in said.items():
                begun_for = upload.headers.get("x-amz-checksum-algorithm")
                kinds = [h.get("x-amz-checksum-type") for h in (upload.headers, headers)]
                if begun_for != name or kinds != ["FULL_OBJECT"] * 2:
                    raise Refused("InvalidRequest")
                if value != digest(name, body):
                    raise Refused("BadDigest")
        joined = b"".join(bytes.fromhex(part.etag) for part in parts)
        etag = f"{hashlib.md5(joined).hexdigest()}-{len(parts)}"
        stored = Stored(body, etag, upload.headers, said, len(parts))
        with self.lock:
            self.objects[key] = stored
            del self.uploads[query["uploadId"]]
        return stored

    def abort(self, query):
        with self.lock:
            if self.uploads.pop(query["uploadId"], None) is None:
                raise Refused("NoSuchUpload", 404)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A request that is broken off is no error: that is how the gateway keeps a body that is
        not what was said of it from becoming an object."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def unframed(framed, headers):
    """The payload of an aws-chunked body. Its trailers are put among the headers, and the framing
    is no encoding of the object."""
    codings = headers.pop("content-encoding").split(",")
    kept = [coding for coding in codings if coding.strip() != "aws-chunked"]
    if kept:
        headers["content-encoding"] = ",".join(kept)
    payload = []
    at = 0
    while True:
        line = framed.index(b"\r\n", at)
        size = int(framed[at:line], 16)
        if size == 0:
            break
        payload.append(framed[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
    for trailer in framed[line + 2 :].decode().split("\r\n"):
        name, _, value = trailer.partition(":")
        if name:
            headers[name] = value
    return b"".join(payload)


def handler(s3):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_):
            pass

        def answer(self, status, body=b"", headers=None):
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def serve(self):
            path, _, query = self.path.partition("?")
            key = urllib.parse.unquote(path).removeprefix("/").partition("/")[2]
            query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
            headers = {name.lower(): value for name, value in self.headers.items()}
            length = int(headers.get("content-length", 0))
            body = self.rfile.read(length)
            if len(body) < length:
                # The gateway has broken it off: no request at all.
                self.close_connection = True
                return
            if headers.get("x-amz-content-sha256") == "STREAMING-UNSIGNED-PAYLOAD-TRAILER":
                body = unframed(body, headers)
            try:
                self.carry_out(key, query, body, headers)
            except Refused as refused:
                text = f"<Error><Code>{refused.code}</Code><Message>no</Message></Error>"
                self.answer(refused.status, text.encode(), {"Content-Type": "application/xml"})

        def carry_out(self, key, query, body, headers):
            if self.command == "PUT":
                stored = s3.put(key, query, body, headers)
                self.answer(200, headers={"ETag": f'"{stored.etag}"'})
            elif self.command == "DELETE":
                s3.abort(query)
                self.answer(204)
            elif "uploads" in query:
                upload = s3.create(key, headers)
                document = (
                    f"<InitiateMultipartUploadResult><Bucket>store</Bucket><Key>k</Key>"
                    f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
                )
                self.answer(200, document.encode(), {"Content-Type": "application/xml"})
            else:
                stored = s3.complete(key, query, body, headers)
                document = (
                    f"<CompleteMultipartUploadResult><Bucket>store</Bucket><Key>k</Key>"
                    f"<ETag>&quot;{stored.etag}&quot;</ETag></CompleteMultipartUploadResult>"
                )
                self.answer(200, document.encode(), {"Content-Type": "application/xml"})

        do_PUT = do_POST = do_DELETE = serve

    return Handler
