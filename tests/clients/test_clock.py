"""Reliability R24: the wall clock of the gateway's machine jumps by an hour."""

import socket
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from support import BUCKET, PATIENCE, SCRIPTS, Gateway, eventually, payload, run, succeeded


class Clock:
    """A wall clock that can be set; the monotonic one goes on (libfaketime)."""

    def __init__(self, directory):
        self.file = directory / "clock"
        self.set("+0")
        self.environment = {
            "LD_PRELOAD": eventually("libfaketime is installed", self.library),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def library(self):
        from pathlib import Path

        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        return str(found[0]) if found else None

    def set(self, offset):
        # Whole at once: the gateway may read it at any time.
        fresh = self.file.with_suffix(".new")
        fresh.write_text(offset + "\n")
        fresh.rename(self.file)


@pytest.fixture
def clock(tmp_path):
    return Clock(tmp_path)


@pytest.fixture
def jumping(clock, moto, tmp_path):
    process = Gateway(tmp_path, moto.endpoint, environment=clock.environment)
    yield process
    assert process.stop() == 0


def refused(gateway):
    """The code that boto3, whose clock is right, is answered."""
    with pytest.raises(ClientError) as caught:
        gateway.client().put_object(Bucket=BUCKET, Key="refused", Body=b"x")
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


@pytest.mark.parametrize("jump", ["+3600", "-3600"])
def test_jump(jump, clock, jumping, moto, tmp_path):
    """ "timers are monotonic; skew → 403": what is on its way arrives, idle connections live on, new
    signatures are held against the clock as it is now."""
    body = payload(200_000)
    s3 = jumping.client()
    s3.put_object(Bucket=BUCKET, Key="before", Body=b"before")
    url = urlsplit(
        s3.generate_presigned_url("put_object", {"Bucket": BUCKET, "Key": "slow"}, ExpiresIn=300)
    )
    with socket.create_connection((url.hostname, url.port), PATIENCE) as slow:
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n"
        slow.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:100_000])
        eventually("it is on its way", lambda: jumping.metric("mizuchi_uploads_in_flight") == 1)

        clock.set(jump)
        assert refused(jumping) == (403, "RequestTimeTooSkewed")
        # A client whose clock has jumped too.
        file = tmp_path / "file"
        file.write_bytes(b"shifted")
        aws = [SCRIPTS / "aws", "--endpoint-url", jumping.endpoint]
        copied = run([*aws, "s3", "cp", file, f"s3://{BUCKET}/shifted"], environment=clock.environment)
        succeeded(copied)

        slow.sendall(body[100_000:])
        assert slow.recv(65536).startswith(b"HTTP/1.1 200 ")
        # The connection was not idle for an hour.
        slow.sendall(f"PUT /{BUCKET}/again HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".encode())
        assert slow.recv(65536).startswith(b"HTTP/1.1 403 ")

    clock.set("+0")
    s3.put_object(Bucket=BUCKET, Key="after", Body=b"after")
    assert sorted(moto.keys()) == ["after", "before", "shifted", "slow"]
    assert (moto.body("slow"), moto.body("shifted")) == (body, b"shifted")
    assert jumping.metric("mizuchi_part_restarts_total") == 0
