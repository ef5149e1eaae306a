"""boto3 and aws-cli over HTTPS, with a TLS terminator in front of the gateway as in production.

Only over HTTPS do they send their default checksums as trailers (aws-chunked framing), which broke
uploads through other gateways in 2025.
"""

import base64
import io
import socket
import ssl
import threading
import zlib

import pytest
from support import (
    ACCESS_KEY,
    BUCKET,
    MB,
    SCRIPTS,
    SECRET_KEY,
    certificate,
    payload,
    run,
    s3_client,
    succeeded,
)

STREAMED = 'mizuchi_transfer_bytes_total{plan="copy",reason="streaming"}'


def pump(source, sink):
    """All that `source` sends, then its end."""
    try:
        while block := source.recv(65536):
            sink.sendall(block)
    except OSError:
        pass
    try:
        sink.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def terminate(listener, context, target):
    """Takes TLS connections and passes what is in them on, until the listener is closed."""
    while True:
        try:
            raw, _ = listener.accept()
        except OSError:
            return
        try:
            inside = context.wrap_socket(raw, server_side=True)
        except OSError:
            continue
        outside = socket.create_connection(target)
        for source, sink in [(inside, outside), (outside, inside)]:
            threading.Thread(target=pump, args=(source, sink), daemon=True).start()


@pytest.fixture(scope="module")
def terminator(gateway, tmp_path_factory):
    """An HTTPS endpoint in front of the gateway, and the certificate to trust."""
    path = certificate(tmp_path_factory.mktemp("tls") / "certificate.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    host, port = gateway.endpoint.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    arguments = (listener, context, (host, int(port)))
    threading.Thread(target=terminate, args=arguments, daemon=True).start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}", str(path)
    listener.close()


@pytest.fixture
def s3(terminator):
    """boto3 with its default settings, over HTTPS."""
    endpoint, trusted = terminator
    return s3_client(endpoint, ACCESS_KEY, SECRET_KEY, verify=trusted)


def crc32(body):
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


@pytest.mark.parametrize("size", [0, 1, 5 * MB])
def test_put_object(s3, gateway, moto, size):
    """A CRC32 trailer after an aws-chunked body: the object is the body and nothing of the framing,
    neither in its bytes nor in its Content-Encoding."""
    before = gateway.metric(STREAMED)
    s3.put_object(Bucket=BUCKET, Key="object", Body=payload(size), ContentEncoding="gzip")
    assert gateway.metric(STREAMED) == before + size
    assert moto.body("object") == payload(size)
    assert moto.head("object")["ContentEncoding"] == "gzip"


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_algorithms(s3, moto, algorithm):
    """Trailers of each algorithm that botocore computes without the CRT library."""
    s3.put_object(Bucket=BUCKET, Key="object", Body=payload(MB), ChecksumAlgorithm=algorithm)
    assert moto.body("object") == payload(MB)
    assert not moto.head("object").get("ContentEncoding")


def test_small_body_keeps_its_checksum(s3, moto):
    """The checksum of a small body is known before the head is sent: it is stored."""
    s3.put_object(Bucket=BUCKET, Key="object", Body=b"body")
    head = moto.s3.head_object(Bucket="store", Key="object", ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"] == crc32(b"body")


def test_upload_fileobj(s3, moto):
    """In parts, each with its trailer, and again in the Complete."""
    s3.upload_fileobj(io.BytesIO(payload(20 * MB)), BUCKET, "object")
    assert moto.body("object") == payload(20 * MB)


def test_stream(s3, moto):
    """put_object from a stream that cannot be rewound. botocore supports it only here: over plain
    HTTP it signs the body's hash and reads the body twice."""

    class Stream(io.RawIOBase):
        rest = io.BytesIO(payload(5 * MB))

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.rest.readinto(buffer)

    s3.put_object(Bucket=BUCKET, Key="object", Body=Stream(), ContentLength=5 * MB)
    assert moto.body("object") == payload(5 * MB)


def test_wrong_trailer(s3, gateway):
    """A body that is not what its trailer says is BadDigest and stores nothing."""

    def spoil(request, **_):
        body = request.body.read()
        index = body.index(b"payload")
        request.body = io.BytesIO(body[:index] + b"P" + body[index + 1 :])

    s3.meta.events.register("before-send.s3.PutObject", spoil)
    with pytest.raises(s3.exceptions.ClientError) as refused:
        s3.put_object(Bucket="embedded", Key="wrong trailer", Body=b"the payload")
    assert refused.value.response["Error"]["Code"] == "BadDigest"
    assert not (gateway.objects / "wrong trailer").exists()


def test_bad_credentials(terminator, moto):
    """64 MB with a wrong secret: SignatureDoesNotMatch, not a broken pipe."""
    endpoint, trusted = terminator
    s3 = s3_client(endpoint, ACCESS_KEY, "wrong", verify=trusted)
    with pytest.raises(s3.exceptions.ClientError) as refused:
        s3.put_object(Bucket=BUCKET, Key="object", Body=payload(64 * MB))
    assert refused.value.response["Error"]["Code"] == "SignatureDoesNotMatch"
    assert not moto.keys()


@pytest.mark.parametrize("size", [5 * MB, 20 * MB], ids=["whole", "multipart"])
def test_aws_cli(terminator, moto, tmp_path, size):
    """`aws s3 cp` with its default checksums."""
    endpoint, trusted = terminator
    (tmp_path / "file").write_bytes(payload(size))
    copy = ["s3", "cp", "--no-progress", tmp_path / "file", f"s3://{BUCKET}/object"]
    command = [SCRIPTS / "aws", "--endpoint-url", endpoint, "--ca-bundle", trusted, *copy]
    succeeded(run(command))
    assert moto.body("object") == payload(size)
    assert not moto.head("object").get("ContentEncoding")
