"""Multipart uploads of 200 MB with real clients, and what a client sees of one in progress."""

import io

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from support import BUCKET, MB, STORE, payload, succeeded

# The least that S3 takes for a part that is not the last.
PART = 5 * 1024 * 1024


def test_boto3_upload_file(s3, gateway, moto, big_file):
    """200 MB, ten parts at a time: SHA-256 equal on read back, and no upload is left behind."""
    path, sha256 = big_file
    completed = gateway.metric('mizuchi_multipart_uploads_total{event="completed"}')
    s3.upload_file(str(path), BUCKET, "object", Config=TransferConfig(multipart_chunksize=8 * MB))
    assert moto.sha256("object") == sha256
    assert not moto.pending()
    assert gateway.metric('mizuchi_multipart_uploads_total{event="completed"}') == completed + 1


def test_aws_s3_cp(aws, moto, big_file):
    """200 MB: SHA-256 equal on read back, and no upload is left behind."""
    path, sha256 = big_file
    succeeded(aws("s3", "cp", "--no-progress", path, f"s3://{BUCKET}/object"))
    assert moto.sha256("object") == sha256
    assert not moto.pending()


def test_boto3_upload_fileobj_from_a_stream(s3, moto):
    """A body that cannot be rewound, in parts: its length is not known before its end."""

    class Stream(io.RawIOBase):
        rest = io.BytesIO(payload(20 * MB))

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.rest.readinto(buffer)

    s3.upload_fileobj(Stream(), BUCKET, "object")
    assert moto.body("object") == payload(20 * MB)


@pytest.fixture
def upload(s3, moto):
    """An upload of which parts 1 and 3 have been sent: what names it, and the parts' ETags."""
    names = {"Bucket": BUCKET, "Key": "a folder/object+1"}
    created = s3.create_multipart_upload(**names)
    assert (created["Bucket"], created["Key"]) == (names["Bucket"], names["Key"])
    names["UploadId"] = created["UploadId"]
    etags = {
        number: s3.upload_part(**names, PartNumber=number, Body=payload(PART, number))["ETag"]
        for number in [1, 3]
    }
    return names, etags


def test_list_parts(s3, moto, upload):
    """ListParts shows the client's bucket, key and uploadId, never the backend's, and its parts."""
    names, etags = upload
    listing = s3.list_parts(**names)
    assert {name: listing[name] for name in names} == names
    assert {part["PartNumber"]: part["ETag"] for part in listing["Parts"]} == etags
    assert all(part["Size"] == PART for part in listing["Parts"])
    (pending,) = moto.pending()
    assert pending["UploadId"] != names["UploadId"]
    assert STORE not in str(listing)


def test_list_parts_in_pages(s3, upload):
    """max-parts and part-number-marker pass on."""
    names, _ = upload
    first = s3.list_parts(**names, MaxParts=1)
    assert [part["PartNumber"] for part in first["Parts"]] == [1]
    rest = s3.list_parts(**names, PartNumberMarker=1)
    assert [part["PartNumber"] for part in rest["Parts"]] == [3]


def test_complete(s3, moto, upload):
    """CompleteMultipartUpload answers with the client's bucket and key and the backend's ETag."""
    names, etags = upload
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in etags.items()]
    answer = s3.complete_multipart_upload(**names, MultipartUpload={"Parts": parts})
    assert (answer["Bucket"], answer["Key"]) == (names["Bucket"], names["Key"])
    assert answer["ETag"] == moto.head(names["Key"])["ETag"]
    assert STORE not in answer["Location"]
    assert moto.body(names["Key"]) == payload(PART, 1) + payload(PART, 3)


def test_abort(s3, moto, upload):
    """AbortMultipartUpload ends the backend's upload; the uploadId is then NoSuchUpload."""
    names, _ = upload
    s3.abort_multipart_upload(**names)
    assert not moto.pending()
    with pytest.raises(ClientError) as refused:
        s3.list_parts(**names)
    assert refused.value.response["Error"]["Code"] == "NoSuchUpload"
    assert not moto.keys()


def test_upload_id_of_the_backend(s3, moto, upload):
    """The backend's own uploadId is worth nothing at the gateway: NoSuchUpload."""
    names, _ = upload
    (pending,) = moto.pending()
    with pytest.raises(ClientError) as refused:
        s3.abort_multipart_upload(**{**names, "UploadId": pending["UploadId"]})
    assert refused.value.response["Error"]["Code"] == "NoSuchUpload"
    assert moto.pending()


def test_error_of_the_backend(s3, upload):
    """The backend's own error reaches the client with its code: a part that was never sent."""
    names, etags = upload
    parts = [{"PartNumber": 1, "ETag": etags[1]}, {"PartNumber": 2, "ETag": etags[3]}]
    with pytest.raises(ClientError) as refused:
        s3.complete_multipart_upload(**names, MultipartUpload={"Parts": parts})
    assert refused.value.response["Error"]["Code"] == "InvalidPart"
