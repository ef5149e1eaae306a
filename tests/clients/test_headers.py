"""What describes an object reaches the backend: nothing dropped, nothing added."""

import datetime
import gzip

import pytest
from botocore.exceptions import ClientError
from support import BUCKET, MB, payload, succeeded

DESCRIPTION = {
    "ContentType": "text/plain; charset=utf-8",
    "ContentEncoding": "gzip",
    "ContentLanguage": "en",
    "ContentDisposition": 'attachment; filename="a b.txt"',
    "CacheControl": "max-age=60",
    "Metadata": {"colour": "blue", "two-words": "a value, with a comma"},
    "StorageClass": "STANDARD_IA",
    "ServerSideEncryption": "AES256",
}


def described(head):
    return {name: head.get(name) for name in DESCRIPTION}


def test_put_object(s3, moto):
    """PutObject's description is the object's."""
    body = gzip.compress(b"text")
    s3.put_object(Bucket=BUCKET, Key="object", Body=body, **DESCRIPTION)
    assert described(moto.head("object")) == DESCRIPTION
    assert moto.body("object") == body


def test_multipart(s3, moto, tmp_path):
    """CreateMultipartUpload's description is the object's."""
    file = tmp_path / "file"
    file.write_bytes(payload(20 * MB))
    s3.upload_file(str(file), BUCKET, "object", ExtraArgs=DESCRIPTION)
    assert described(moto.head("object")) == DESCRIPTION


def test_aws_cli(aws, moto, tmp_path):
    """`aws s3 cp` with its options, and the Content-Type that it guesses from the name."""
    file = tmp_path / "page.html"
    file.write_bytes(b"<p>")
    options = ["--metadata", "colour=blue", "--storage-class", "STANDARD_IA"]
    options += ["--content-encoding", "gzip", "--no-progress"]
    succeeded(aws("s3", "cp", *options, file, f"s3://{BUCKET}/object"))
    head = moto.head("object")
    assert head["ContentType"] == "text/html"
    assert head["Metadata"] == {"colour": "blue"}
    assert (head["StorageClass"], head["ContentEncoding"]) == ("STANDARD_IA", "gzip")


def test_expires(s3, moto):
    """Expires."""
    when = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    s3.put_object(Bucket=BUCKET, Key="object", Body=b"", Expires=when)
    assert moto.head("object")["ExpiresString"] == "Wed, 02 Jan 2030 03:04:05 GMT"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("aws-chunked", None), ("aws-chunked,gzip", "gzip"), ("gzip, aws-chunked", "gzip")],
)
def test_no_aws_chunked_in_content_encoding(s3, moto, sent, kept):
    """`aws-chunked` names a framing, even on a plain body: it is no encoding of the object."""
    s3.put_object(Bucket=BUCKET, Key="object", Body=b"plain", ContentEncoding=sent)
    # An empty header is none.
    assert (moto.head("object").get("ContentEncoding") or None) == kept
    assert moto.body("object") == b"plain"


def test_if_none_match(s3, moto):
    """If-None-Match: * passes on: the second PutObject is PreconditionFailed, the first remains."""
    s3.put_object(Bucket=BUCKET, Key="object", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=BUCKET, Key="object", Body=b"second", IfNoneMatch="*")
    assert refused.value.response["Error"]["Code"] == "PreconditionFailed"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert moto.body("object") == b"first"


def test_if_match(s3, moto):
    """If-Match passes on: the ETag that the object has, and no other."""
    etag = s3.put_object(Bucket=BUCKET, Key="object", Body=b"first")["ETag"]
    s3.put_object(Bucket=BUCKET, Key="object", Body=b"second", IfMatch=etag)
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=BUCKET, Key="object", Body=b"third", IfMatch=etag)
    assert refused.value.response["Error"]["Code"] == "PreconditionFailed"
    assert moto.body("object") == b"second"


@pytest.mark.parametrize(
    "header",
    [
        {"ACL": "public-read"},
        {"GrantRead": "id=somebody"},
        {"Tagging": "a=b"},
        {"WebsiteRedirectLocation": "/elsewhere"},
        {"ObjectLockLegalHoldStatus": "ON"},
    ],
    ids=lambda header: next(iter(header)),
)
def test_rights_are_refused(s3, moto, header):
    """What uses the gateway's rights at the backend needs `upload.allow`: AccessDenied, never
    dropped in silence."""
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=BUCKET, Key="object", Body=b"", **header)
    assert refused.value.response["Error"]["Code"] == "AccessDenied"
    assert not moto.keys()
