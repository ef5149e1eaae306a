"""What an upload-only gateway refuses by design, as clients see it."""

import pytest
from botocore.exceptions import ClientError
from support import BUCKET, STORE

OBJECT = {"Bucket": BUCKET, "Key": "object"}
KEEP = b"what was there before"

NOT_ALLOWED = {
    "get_object": OBJECT,
    "delete_object": OBJECT,
    "list_objects": {"Bucket": BUCKET},
    "list_objects_v2": {"Bucket": BUCKET, "Prefix": "o"},
    "list_multipart_uploads": {"Bucket": BUCKET},
    "delete_bucket": {"Bucket": BUCKET},
    "create_bucket": {"Bucket": BUCKET},
}
NOT_IMPLEMENTED = {
    "copy_object": {**OBJECT, "CopySource": f"{BUCKET}/object"},
    "get_object_acl": OBJECT,
    "put_object_acl": {**OBJECT, "ACL": "private"},
    "get_object_tagging": OBJECT,
    "put_object_tagging": {**OBJECT, "Tagging": {"TagSet": [{"Key": "a", "Value": "b"}]}},
    "get_object_attributes": {**OBJECT, "ObjectAttributes": ["ETag"]},
    "restore_object": {**OBJECT, "RestoreRequest": {"Days": 1}},
    "list_object_versions": {"Bucket": BUCKET},
    "delete_objects": {"Bucket": BUCKET, "Delete": {"Objects": [{"Key": "object"}]}},
    "get_bucket_policy": {"Bucket": BUCKET},
    "put_bucket_policy": {"Bucket": BUCKET, "Policy": "{}"},
    "get_bucket_versioning": {"Bucket": BUCKET},
}


@pytest.fixture
def existing(moto):
    moto.s3.put_object(Bucket=STORE, Key="object", Body=KEEP)


@pytest.mark.parametrize(
    ("operation", "parameters", "code", "status"),
    [(name, parameters, "MethodNotAllowed", 405) for name, parameters in NOT_ALLOWED.items()]
    + [(name, parameters, "NotImplemented", 501) for name, parameters in NOT_IMPLEMENTED.items()],
    ids=[*NOT_ALLOWED, *NOT_IMPLEMENTED],
)
def test_boto3(s3, moto, existing, operation, parameters, code, status):
    """Reads, listings and deletions are 405; copies and other subresources 501; none is taken for
    a PutObject, and the object remains what it was."""
    with pytest.raises(ClientError) as refused:
        getattr(s3, operation)(**parameters)
    assert refused.value.response["Error"]["Code"] == code
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert moto.keys() == ["object"]
    assert moto.body("object") == KEEP


def test_head_object(s3, existing):
    """HeadObject is 405; its answer has no body to name the code."""
    with pytest.raises(ClientError) as refused:
        s3.head_object(**OBJECT)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 405


def test_upload_part_copy(s3, moto, existing):
    """UploadPartCopy is 501, and the part is not there."""
    upload = {**OBJECT, "UploadId": s3.create_multipart_upload(**OBJECT)["UploadId"]}
    with pytest.raises(ClientError) as refused:
        s3.upload_part_copy(**upload, PartNumber=1, CopySource=f"{BUCKET}/object")
    assert refused.value.response["Error"]["Code"] == "NotImplemented"
    backend = {**OBJECT, "Bucket": STORE, "UploadId": moto.pending()[0]["UploadId"]}
    assert "Parts" not in moto.s3.list_parts(**backend)


def test_unknown_bucket(s3):
    """A bucket that is not in the settings: NoSuchBucket."""
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket="elsewhere", Key="object", Body=b"")
    assert refused.value.response["Error"]["Code"] == "NoSuchBucket"


@pytest.mark.parametrize(
    "words",
    [["ls", f"s3://{BUCKET}/"], ["rm", f"s3://{BUCKET}/object"]],
    ids=lambda words: words[0],
)
def test_aws_cli(aws, moto, existing, words):
    """`aws s3 ls` and `aws s3 rm` name the reason."""
    outcome = aws("s3", *words)
    assert outcome.returncode != 0
    assert "(MethodNotAllowed)" in (outcome.stderr + outcome.stdout).decode()
    assert moto.keys() == ["object"]


def test_connection_goes_on(s3, moto):
    """A refusal costs the client no connection: the next upload works."""
    for _ in range(3):
        with pytest.raises(ClientError):
            s3.get_object(**OBJECT)
        s3.put_object(**OBJECT, Body=b"body")
    assert moto.body("object") == b"body"
