"""boto3 with every checksum setting, over HTTP and over HTTPS: what the backend has afterwards is
what it has when the same client uploads to it directly.

Over HTTPS boto3 sends checksums as trailers, in aws-chunked framing; see docs/checksums.md for
those that are stored.
"""

import io

import pytest
from boto3.s3.transfer import TransferConfig
from support import (
    ACCESS_KEY,
    BUCKET,
    CHECKSUMS,
    MB,
    SECRET_KEY,
    STORE,
    TERMINATORS,
    TRAILER_BUCKET,
    payload,
    s3_client,
    write_file,
)

MIB = 1024 * 1024
DESCRIPTION = {
    "ContentType": "text/x",
    "ContentEncoding": "gzip",
    "CacheControl": "max-age=60",
    "Metadata": {"colour": "blue"},
}
ROUTES = ["http", *TERMINATORS]


class Stream(io.RawIOBase):
    """Bytes that cannot be rewound, nor counted beforehand."""

    def __init__(self, body):
        self.rest = io.BytesIO(body)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.rest.readinto(buffer)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("boto3") / "12MiB"
    write_file(path, 12 * MIB)
    return path


def put_small(s3, file, **options):
    s3.put_object(Body=b"small", **options)


def put_object(s3, file, **options):
    s3.put_object(Body=payload(MB), **options)


def upload_file(s3, file, **options):
    bucket, key = options.pop("Bucket"), options.pop("Key")
    s3.upload_file(str(file), bucket, key, ExtraArgs=options)


def upload_fileobj(s3, file, **options):
    bucket, key = options.pop("Bucket"), options.pop("Key")
    parts = TransferConfig(multipart_chunksize=5 * MIB)
    with open(file, "rb") as body:
        s3.upload_fileobj(Stream(body.read()), bucket, key, ExtraArgs=options, Config=parts)


@pytest.fixture(scope="module")
def direct(moto_process, file):
    """What the backend has of an upload that went to it directly."""
    known = {}

    def of(upload, calculation, algorithm, options):
        if (upload, calculation, algorithm) not in known:
            config = {"request_checksum_calculation": calculation}
            s3 = s3_client(moto_process.endpoint, ACCESS_KEY, SECRET_KEY, **config)
            upload(s3, file, Bucket=STORE, Key="direct", **options)
            known[upload, calculation, algorithm] = moto_process.object("direct")
        return known[upload, calculation, algorithm]

    return of


@pytest.mark.parametrize("algorithm", [None, *CHECKSUMS])
@pytest.mark.parametrize("signing", [True, False], ids=["signed payload", "unsigned payload"])
@pytest.mark.parametrize("calculation", ["when_supported", "when_required"])
@pytest.mark.parametrize("route", ROUTES)
def test_as_directly(routes, moto, file, direct, route, calculation, signing, algorithm):
    """put_object, upload_file and upload_fileobj of unknown length: bytes, description, ETag and
    checksums are those of a direct upload."""
    config = {
        "request_checksum_calculation": calculation,
        "s3": {"addressing_style": "path", "payload_signing_enabled": signing},
    }
    s3 = routes[route].client(**config)
    options = {**DESCRIPTION, **({"ChecksumAlgorithm": algorithm} if algorithm else {})}
    # Larger bodies' trailers are stored only where they go on to the backend.
    everywhere = BUCKET if route == "http" else TRAILER_BUCKET
    for upload, bucket in [
        (put_small, BUCKET),
        (put_object, everywhere),
        (upload_file, everywhere),
        (upload_fileobj, everywhere),
    ]:
        upload(s3, file, Bucket=bucket, Key="through", **options)
        expected = direct(upload, calculation, algorithm, options)
        assert moto.object("through") == expected, upload.__name__


@pytest.mark.parametrize("calculation", ["when_supported", "when_required"])
@pytest.mark.parametrize("route", TERMINATORS)
def test_trailers_that_end_here(routes, moto, file, direct, route, calculation):
    """By default a large body's trailer is verified and not passed on: the rest is the same."""
    s3 = routes[route].client(request_checksum_calculation=calculation)
    for upload in [put_object, upload_file, upload_fileobj]:
        upload(s3, file, Bucket=BUCKET, Key="through", **DESCRIPTION)
        expected = direct(upload, calculation, None, DESCRIPTION)
        through = moto.object("through")
        assert (through.sha256, through.described) == (expected.sha256, expected.described)
