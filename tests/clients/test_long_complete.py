"""boto3 and a CompleteMultipartUpload that takes the backend longer than `complete_keepalive`.

"A request could fail after the initial 200 OK response has been sent. This means that a 200 OK
response can contain either a success or an error."
"""

import time

import pytest
from botocore.exceptions import ClientError
from support import BUCKET, SCRIPTS, Gateway, SlowComplete, payload, run, succeeded

# Seconds that the backend takes; the gateway's first byte is due after one.
DELAY = 3.5


@pytest.fixture(scope="module")
def slow_gateway(moto_process, tmp_path_factory):
    proxy = SlowComplete(moto_process.endpoint, DELAY)
    environment = {"MIZUCHI__BUCKETS__0__UPLOAD__COMPLETE_KEEPALIVE": "1s"}
    directory = tmp_path_factory.mktemp("slow")
    process = Gateway(directory, proxy.endpoint, environment=environment)
    yield process
    assert process.stop() == 0
    proxy.close()


@pytest.fixture
def upload(slow_gateway, moto):
    """A client that waits two seconds for a byte, an upload of one part, and the part."""
    s3 = slow_gateway.client(read_timeout=2)
    names = {"Bucket": BUCKET, "Key": "object"}
    names["UploadId"] = s3.create_multipart_upload(**names)["UploadId"]
    etag = s3.upload_part(**names, PartNumber=1, Body=payload(1000))["ETag"]
    return s3, names, {"PartNumber": 1, "ETag": etag}


def test_white_space_keeps_a_client_waiting(upload, moto, slow_gateway):
    """A client with a read timeout shorter than the backend's time gets the answer."""
    s3, names, part = upload
    started = time.monotonic()
    answer = s3.complete_multipart_upload(**names, MultipartUpload={"Parts": [part]})
    assert time.monotonic() - started > DELAY
    assert (answer["Bucket"], answer["Key"]) == (BUCKET, "object")
    assert answer["ETag"] == moto.head("object")["ETag"]
    assert moto.body("object") == payload(1000)
    line = slow_gateway.access_lines()[-1]
    assert "operation=CompleteMultipartUpload" in line and "status=200 code= " in line


def test_an_error_inside_the_200_is_raised(upload, moto, slow_gateway):
    """boto3 finds the error behind the white space, with the backend's code."""
    s3, names, part = upload
    missing = {**part, "PartNumber": 2}
    with pytest.raises(ClientError) as refused:
        s3.complete_multipart_upload(**names, MultipartUpload={"Parts": [part, missing]})
    assert refused.value.response["Error"]["Code"] == "InvalidPart"
    assert not moto.keys()
    line = slow_gateway.access_lines()[-1]
    assert "operation=CompleteMultipartUpload" in line and "status=200 code=InvalidPart " in line


def test_aws_cli(slow_gateway, moto, tmp_path):
    """aws s3 cp of 20 MB, in parts."""
    path = tmp_path / "file"
    path.write_bytes(payload(20_000_000))
    command = [SCRIPTS / "aws", "--endpoint-url", slow_gateway.endpoint, "--cli-read-timeout", "2"]
    succeeded(run([*command, "s3", "cp", "--no-progress", path, f"s3://{BUCKET}/object"]))
    assert moto.body("object") == payload(20_000_000)
