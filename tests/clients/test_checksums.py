"""boto3's checksum settings: with each the object arrives whole, and its checksum with it.

Over plain HTTP botocore sends the checksum as a header; test_tls.py has the trailers that it sends
over HTTPS.
"""

import base64
import hashlib
import io
import zlib

import pytest
from boto3.s3.transfer import TransferConfig
from support import BUCKET, MB, payload

# The default of botocore, and its setting from before 2025.
SETTINGS = pytest.mark.parametrize("calculation", ["when_supported", "when_required"])
# Those that botocore computes without the CRT library.
ALGORITHMS = pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])


def checksum(algorithm, body):
    if algorithm == "CRC32":
        digest = zlib.crc32(body).to_bytes(4, "big")
    else:
        digest = hashlib.new(algorithm.lower(), body).digest()
    return base64.b64encode(digest).decode()


def stored(moto, algorithm):
    head = moto.s3.head_object(Bucket="store", Key="object", ChecksumMode="ENABLED")
    return head.get(f"Checksum{algorithm}")


@SETTINGS
@pytest.mark.parametrize("size", [0, 1, 5 * MB])
def test_put_object(gateway, moto, calculation, size):
    """PutObject with either setting."""
    s3 = gateway.client(request_checksum_calculation=calculation)
    s3.put_object(Bucket=BUCKET, Key="object", Body=payload(size))
    assert moto.body("object") == payload(size)
    expected = checksum("CRC32", payload(size)) if calculation == "when_supported" else None
    assert stored(moto, "CRC32") == expected


@SETTINGS
@pytest.mark.parametrize("size", [MB, 20 * MB], ids=["whole", "multipart"])
def test_upload_fileobj(gateway, moto, calculation, size):
    """upload_fileobj with either setting, whole and in parts."""
    s3 = gateway.client(request_checksum_calculation=calculation)
    s3.upload_fileobj(io.BytesIO(payload(size)), BUCKET, "object")
    assert moto.body("object") == payload(size)


@ALGORITHMS
def test_put_object_algorithm(s3, moto, algorithm):
    """The checksum that the client chose is stored at the backend, and answered to the client."""
    body = payload(2 * MB)
    answer = s3.put_object(Bucket=BUCKET, Key="object", Body=body, ChecksumAlgorithm=algorithm)
    expected = checksum(algorithm, body)
    assert stored(moto, algorithm) == expected
    assert answer[f"Checksum{algorithm}"] == expected
    assert moto.body("object") == body


@ALGORITHMS
def test_upload_fileobj_algorithm(s3, moto, algorithm):
    """The same in parts: each part's checksum goes to the backend, and again in the Complete."""
    s3.upload_fileobj(
        io.BytesIO(payload(20 * MB)),
        BUCKET,
        "object",
        ExtraArgs={"ChecksumAlgorithm": algorithm},
        Config=TransferConfig(multipart_chunksize=8 * MB),
    )
    assert moto.body("object") == payload(20 * MB)


def test_checksum_given(s3, moto):
    """A checksum that the client computed itself."""
    body = payload(MB)
    expected = checksum("SHA256", body)
    s3.put_object(Bucket=BUCKET, Key="object", Body=body, ChecksumSHA256=expected)
    assert moto.body("object") == body


def test_content_md5(s3, moto):
    """Content-MD5."""
    body = payload(MB)
    md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
    s3.put_object(Bucket=BUCKET, Key="object", Body=body, ContentMD5=md5)
    assert moto.body("object") == body


@pytest.mark.parametrize("size", [1, MB], ids=["1 B", "1 MB"])
@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"ChecksumSHA256": checksum("SHA256", b"another")}, "BadDigest"),
        ({"ChecksumCRC32": checksum("CRC32", b"another")}, "BadDigest"),
        ({"ContentMD5": base64.b64encode(hashlib.md5(b"another").digest()).decode()}, "BadDigest"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_wrong_checksum(gateway, header, code, size):
    """A body that is not what was announced is BadDigest and stores nothing.

    At the embedded backend: moto stores any checksum without a look at the body.
    """
    s3 = gateway.client(request_checksum_calculation="when_required")
    with pytest.raises(s3.exceptions.ClientError) as refused:
        s3.put_object(Bucket="embedded", Key="wrong", Body=payload(size), **header)
    assert refused.value.response["Error"]["Code"] == code
    assert not (gateway.objects / "wrong").exists()


def test_wrong_content_sha256(gateway):
    """A body that is not the signed x-amz-content-sha256 stores nothing."""
    s3 = gateway.client(request_checksum_calculation="when_required")

    def another_body(request, **_):
        request.body = io.BytesIO(b"B" + request.body.read()[1:])

    s3.meta.events.register("before-send.s3.PutObject", another_body)
    with pytest.raises(s3.exceptions.ClientError) as refused:
        s3.put_object(Bucket="embedded", Key="wrong", Body=b"A" + payload(100_000))
    assert refused.value.response["Error"]["Code"] == "XAmzContentSHA256Mismatch"
    assert not (gateway.objects / "wrong").exists()
