"""The embedded backend: objects are files."""

import hashlib

from boto3.s3.transfer import TransferConfig
from support import MB, payload, succeeded


def test_boto3_put(s3, gateway):
    """PutObject makes a file of the object's bytes."""
    s3.put_object(Bucket="embedded", Key="folder/object", Body=payload(5 * MB))
    assert (gateway.objects / "folder/object").read_bytes() == payload(5 * MB)


def test_aws_cli_put(aws, gateway, tmp_path):
    """The line that `make run` prints."""
    file = tmp_path / "file"
    file.write_bytes(payload(MB))
    succeeded(aws("s3", "cp", "--no-progress", file, "s3://embedded/from aws"))
    assert (gateway.objects / "from aws").read_bytes() == payload(MB)


def test_multipart(s3, gateway, tmp_path):
    """A multipart upload makes one file."""
    file = tmp_path / "file"
    file.write_bytes(payload(30 * MB))
    parts = TransferConfig(multipart_chunksize=8 * MB)
    s3.upload_file(str(file), "embedded", "parts", Config=parts)
    digest = hashlib.sha256((gateway.objects / "parts").read_bytes())
    assert digest.hexdigest() == hashlib.sha256(payload(30 * MB)).hexdigest()
