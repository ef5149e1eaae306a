"""PutObject, whole, with each client."""

import hashlib

import pytest
from support import BUCKET, MB, payload, succeeded

SIZES = pytest.mark.parametrize("size", [0, 1, 5 * MB])


@SIZES
def test_boto3(s3, moto, size):
    """The backend has the bytes, and the client gets the backend's ETag."""
    body = payload(size)
    answer = s3.put_object(Bucket=BUCKET, Key="object", Body=body)
    assert moto.body("object") == body
    assert answer["ETag"] == moto.head("object")["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'


@SIZES
def test_aws_cli(aws, moto, tmp_path, size):
    """`aws s3 cp FILE s3://BUCKET/KEY`."""
    file = tmp_path / "file"
    file.write_bytes(payload(size))
    succeeded(aws("s3", "cp", "--no-progress", file, f"s3://{BUCKET}/object"))
    assert moto.body("object") == payload(size)


def test_aws_cli_from_standard_input(aws, moto):
    """`aws s3 cp - s3://BUCKET/KEY`: a stream that cannot be rewound."""
    body = payload(5 * MB)
    succeeded(aws("s3", "cp", "--no-progress", "-", f"s3://{BUCKET}/object", input=body))
    assert moto.body("object") == body


def test_aws_cli_directory(aws, moto, tmp_path):
    """`aws s3 cp --recursive`: many small uploads side by side, none lost and none mixed up."""
    for number in range(40):
        (tmp_path / f"file {number}").write_bytes(payload(1000 + number))
    succeeded(aws("s3", "cp", "--no-progress", "--recursive", tmp_path, f"s3://{BUCKET}/folder/"))
    for number in range(40):
        assert moto.body(f"folder/file {number}") == payload(1000 + number)


def test_replaces(s3, moto):
    """A second PutObject replaces the object (`upload.overwrite: allow`)."""
    for body in [b"first", b"second"]:
        s3.put_object(Bucket=BUCKET, Key="object", Body=body)
    assert moto.body("object") == b"second"


def test_bucket_probes(s3):
    """HeadBucket and GetBucketLocation answer for the client's bucket: tools probe them."""
    assert s3.head_bucket(Bucket=BUCKET)["BucketRegion"] == "us-east-1"
    # us-east-1 is the empty location.
    assert s3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] is None
