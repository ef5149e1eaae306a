"""Presigned PUT URLs, made by boto3, used by clients that know nothing of S3."""

import urllib.error
import urllib.request

import pytest
import requests
from support import ACCESS_KEY, BUCKET, MB, REGION, SECRET_KEY, payload, run, write_file

SIZES = pytest.mark.parametrize("size", [0, 1, 5 * MB])


def curl(url, *words, **options):
    """curl, which prints the answer's body, its status and how much it uploaded."""
    command = ["curl", "-sS", "--noproxy", "*", *words, "-w", "\n%{http_code} %{size_upload}", url]
    outcome = run(command, **options)
    assert outcome.returncode == 0, outcome.stderr.decode()
    body, _, end = outcome.stdout.decode().rpartition("\n")
    status, uploaded = end.split()
    return int(status), int(uploaded), body, outcome.stderr.decode()


@SIZES
def test_curl(presign, moto, tmp_path, size):
    """`curl -T FILE URL`."""
    file = tmp_path / "file"
    file.write_bytes(payload(size))
    status, uploaded, _, _ = curl(presign("object"), "-T", file)
    assert (status, uploaded) == (200, size)
    assert moto.body("object") == payload(size)


def test_curl_waits_for_100_continue(presign, moto, tmp_path):
    """curl announces large bodies with Expect: 100-continue and gets its 100 before it sends."""
    file = tmp_path / "file"
    sha256 = write_file(file, 20 * MB)
    status, _, _, trace = curl(presign("object"), "-v", "--expect100-timeout", "60", "-T", file)
    assert status == 200
    assert "> Expect: 100-continue" in trace and "< HTTP/1.1 100 Continue" in trace
    assert moto.sha256("object") == sha256


def test_curl_is_refused_before_the_body(presign, moto, tmp_path):
    """A wrong signature with Expect: 100-continue: 403 and not one byte of the body travels."""
    file = tmp_path / "file"
    write_file(file, 20 * MB)
    url = presign("object").replace("/object?", "/another?")
    status, uploaded, body, trace = curl(url, "-v", "--expect100-timeout", "60", "-T", file)
    assert (status, uploaded) == (403, 0)
    assert "<Code>SignatureDoesNotMatch</Code>" in body
    assert "100 Continue" not in trace
    assert not moto.keys()


def test_curl_is_refused_while_it_sends(presign, moto, tmp_path):
    """A wrong signature, and a client that sends 64 MB without asking: it reads the 403."""
    file = tmp_path / "file"
    write_file(file, 64 * MB)
    url = presign("object").replace("/object?", "/another?")
    status, _, body, _ = curl(url, "-H", "Expect:", "-T", file)
    assert status == 403
    assert "<Code>SignatureDoesNotMatch</Code>" in body
    assert not moto.keys()


def test_urllib_is_refused_while_it_sends(presign, moto):
    """The same with a client that reads nothing before it has sent all, within `server.drain`: it
    gets the 403 and no broken pipe."""
    url = presign("object").replace("/object?", "/another?")
    request = urllib.request.Request(url, data=payload(12 * MB), method="PUT")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 403
    assert b"<Code>SignatureDoesNotMatch</Code>" in refused.value.read()
    assert not moto.keys()


@pytest.mark.parametrize("size", [MB, 20 * MB], ids=["whole", "in parts"])
def test_curl_from_a_pipe(presign, moto, size):
    """`curl -T -` sends Transfer-Encoding: chunked, without a length (`upload.unknown_length`)."""
    status, _, _, _ = curl(presign("object"), "-T", "-", input=payload(size))
    assert status == 200
    assert moto.body("object") == payload(size)
    assert not moto.pending()


def test_curl_signs_by_itself(gateway, moto, tmp_path):
    """curl's own SigV4 (`--aws-sigv4`), told the header that S3 requires."""
    file = tmp_path / "file"
    file.write_bytes(payload(MB))
    sign = ["--aws-sigv4", f"aws:amz:{REGION}:s3", "--user", f"{ACCESS_KEY}:{SECRET_KEY}"]
    sign += ["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]
    status, _, body, _ = curl(f"{gateway.endpoint}/{BUCKET}/object", *sign, "-T", file)
    assert status == 200, body
    assert moto.body("object") == payload(MB)


@SIZES
def test_requests(presign, moto, size):
    """`requests.put(url, data=…)`."""
    answer = requests.put(presign("object"), data=payload(size), timeout=60)
    assert answer.status_code == 200, answer.text
    assert moto.body("object") == payload(size)


def test_urllib(presign, gateway):
    """The standard library, which adds a Content-Type that was not signed, that of a form.

    At the embedded backend: moto takes any body of that type for a form and stores nothing.
    """
    url = presign("from urllib", Bucket="embedded")
    request = urllib.request.Request(url, data=payload(5 * MB), method="PUT")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.headers["ETag"]
    assert (gateway.objects / "from urllib").read_bytes() == payload(5 * MB)


def test_signed_headers(presign, moto):
    """What was signed into the URL must come with it: a Content-Type that differs is refused."""
    url = presign("object", ContentType="text/plain")
    answer = requests.put(url, data=b"text", headers={"Content-Type": "text/html"}, timeout=60)
    assert answer.status_code == 403
    assert "<Code>SignatureDoesNotMatch</Code>" in answer.text
    answer = requests.put(url, data=b"text", headers={"Content-Type": "text/plain"}, timeout=60)
    assert answer.status_code == 200
    assert moto.head("object")["ContentType"] == "text/plain"


def test_upload_part(s3, moto):
    """Presigned UploadPart, as browsers upload large files."""
    names = {"Bucket": BUCKET, "Key": "object"}
    names["UploadId"] = s3.create_multipart_upload(**names)["UploadId"]
    url = s3.generate_presigned_url("upload_part", Params={**names, "PartNumber": 1})
    answer = requests.put(url, data=payload(6 * MB), timeout=60)
    assert answer.status_code == 200, answer.text
    parts = {"Parts": [{"PartNumber": 1, "ETag": answer.headers["ETag"]}]}
    s3.complete_multipart_upload(**names, MultipartUpload=parts)
    assert moto.body("object") == payload(6 * MB)
