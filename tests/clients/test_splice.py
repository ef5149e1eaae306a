"""Plain bodies go from socket to socket in the kernel: shown by the metrics, and once by strace."""

import io
import re

import pytest
from boto3.s3.transfer import TransferConfig
from support import (
    BUCKET,
    MB,
    RCLONE_BUCKET,
    Gateway,
    payload,
    run,
    succeeded,
    write_file,
)

SPLICED = 'mizuchi_transfer_bytes_total{plan="splice",reason="plain"}'
COPIED = 'mizuchi_transfer_bytes_total{plan="copy"'
ZERO_COPY = "mizuchi_zero_copy_bytes_total"
# What may come with a request's head, and so through user space.
WITH_THE_HEAD = 64 * 1024


@pytest.fixture
def spliced(gateway):
    """Asserts that of `size` bytes uploaded since its making all but what came with `requests`
    heads were spliced, and none copied."""
    before = {name: gateway.metric(name) for name in [SPLICED, COPIED, ZERO_COPY]}

    def check(size, requests=1):
        grown = {name: gateway.metric(name) - value for name, value in before.items()}
        assert grown[SPLICED] == size
        assert grown[COPIED] == 0
        assert size - requests * WITH_THE_HEAD <= grown[ZERO_COPY] <= size

    return check


def test_curl_presigned(presign, moto, spliced, tmp_path):
    """curl with a presigned URL."""
    sha256 = write_file(tmp_path / "file", 20 * MB)
    succeeded(run(["curl", "-sS", "--fail-with-body", "-T", tmp_path / "file", presign("object")]))
    assert moto.sha256("object") == sha256
    spliced(20 * MB)


@pytest.mark.parametrize("calculation", ["when_supported", "when_required"])
def test_boto3_put_object(gateway, moto, spliced, calculation):
    """boto3's signed PutObject over plain HTTP, with its checksum and without: the backend holds
    the body against x-amz-content-sha256 and the checksum."""
    s3 = gateway.client(request_checksum_calculation=calculation)
    s3.put_object(Bucket=BUCKET, Key="object", Body=payload(20 * MB))
    assert moto.body("object") == payload(20 * MB)
    spliced(20 * MB)


def test_boto3_upload_part(s3, moto, spliced):
    """boto3's signed UploadPart over plain HTTP."""
    parts = TransferConfig(multipart_chunksize=8 * MB)
    s3.upload_fileobj(io.BytesIO(payload(24 * MB)), BUCKET, "object", Config=parts)
    assert moto.body("object") == payload(24 * MB)
    spliced(24 * MB, requests=3)


def test_aws_s3_cp(aws, moto, spliced, tmp_path):
    """aws-cli, with the checksums that it sends by default."""
    sha256 = write_file(tmp_path / "file", 5 * MB)
    succeeded(aws("s3", "cp", "--no-progress", tmp_path / "file", f"s3://{BUCKET}/object"))
    assert moto.sha256("object") == sha256
    spliced(5 * MB)


def test_rclone(rclone, moto, spliced, tmp_path):
    """rclone, which sends UNSIGNED-PAYLOAD and Content-MD5."""
    sha256 = write_file(tmp_path / "file", 20 * MB)
    succeeded(rclone("copyto", tmp_path / "file", f":s3:{RCLONE_BUCKET}/object"))
    assert moto.sha256("object") == sha256
    spliced(20 * MB)


def test_small_bodies_are_copied(s3, gateway, moto):
    """Under `server.zero_copy.min_body`, 64 KiB, a copy is cheaper."""
    small = 'mizuchi_transfer_bytes_total{plan="copy",reason="small"}'
    before = gateway.metric(small), gateway.metric(ZERO_COPY)
    s3.put_object(Bucket=BUCKET, Key="object", Body=payload(65535))
    assert (gateway.metric(small), gateway.metric(ZERO_COPY)) == (before[0] + 65535, before[1])
    assert moto.body("object") == payload(65535)


# One of strace's lines, or the rest of an interrupted one: call, arguments, result.
CALL = re.compile(r"^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed>).*\) += (\d+)", re.MULTILINE)
CALLS = "splice,tee,read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg"


def test_strace(moto, tmp_path):
    """8 MB by curl under strace: splice and tee carry them, from the client and to the backend, and
    what goes through user space is less than 64 KiB, of everything that is read or written."""
    trace = tmp_path / "trace"
    # -D: the gateway remains this process's own child, and gets its SIGTERM.
    prefix = ["strace", "-D", "-f", "-qq", "-s", "0", "-o", trace, "-e", f"trace={CALLS}"]
    gateway = Gateway(tmp_path, moto.endpoint, prefix)
    try:
        url = gateway.client().generate_presigned_url(
            "put_object", Params={"Bucket": BUCKET, "Key": "object"}
        )
        sha256 = write_file(tmp_path / "file", 8 * MB)
        started = trace.stat().st_size
        succeeded(run(["curl", "-sS", "--fail-with-body", "-T", tmp_path / "file", url]))
        ended = trace.stat().st_size
    finally:
        assert gateway.stop() == 0
    assert moto.sha256("object") == sha256
    moved = dict.fromkeys(CALLS.split(","), 0)
    for call, result in CALL.findall(trace.read_bytes()[started:ended].decode()):
        moved[call] += int(result)
    # Into the pipe and out of it; tee keeps the pages for a replay.
    assert moved.pop("splice") >= 2 * (8 * MB - WITH_THE_HEAD)
    assert moved.pop("tee") >= 8 * MB - WITH_THE_HEAD
    assert sum(moved.values()) < WITH_THE_HEAD, moved
