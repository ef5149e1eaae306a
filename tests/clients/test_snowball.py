"""Many objects in one body: minio-py's upload_snowball_objects, and `POST /bucket?batch`."""

import contextlib
import io
import json
import queue
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from minio import Minio
from minio.api import SnowballObject
from minio.error import S3Error
from support import ACCESS_KEY, REGION, SECRET_KEY, Gateway, eventually, payload

# What the issue asks for.
OBJECTS = 5_000
# One way, seconds: a round trip takes 20 ms.
DELAY = 0.010
# Single PUTs that are measured; the others would take as long each.
SAMPLE = 100

SETTINGS = """\
server:
  address: 127.0.0.1:0
  workers: 2
  state_directory: {directory}/state
admin:
  address: 127.0.0.1:0
embedded:
  directory: {directory}/objects
auth:
  sigv4:
    credentials:
      - access_key: {access_key}
        secret_key: {secret_key}
        principal: tester
buckets:
  - name: {bucket}
    s3:
      bucket: {store}
      region: {region}
      endpoint: {endpoint}
      access_key: backend
      secret_key: backend
    upload:
      batch:
        snowball: allow
        post: allow
  - name: embedded
    s3:
      bucket: files
      endpoint: embedded
    upload:
      batch:
        snowball: allow
        post: allow
  - name: back
    s3:
      bucket: back
      endpoint: embedded
    upload:
      mode: write_back
      batch:
        snowball: allow
        post: allow
  - name: closed
    s3:
      bucket: closed
      endpoint: embedded
"""


class Link:
    """A link on which every byte arrives `delay` seconds after it was sent, in both directions."""

    def __init__(self, target, delay):
        self.target = target.removeprefix("http://").split(":")
        self.delay = delay
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.endpoint = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection((self.target[0], int(self.target[1])))
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.pass_on(client, server)
                self.pass_on(server, client)

    def pass_on(self, source, sink):
        """Two threads: what is on its way does not keep the next bytes from setting out."""
        under_way = queue.SimpleQueue()

        def take():
            block = b"-"
            while block:
                try:
                    block = source.recv(65536)
                except OSError:
                    block = b""
                under_way.put((time.monotonic() + self.delay, block))

        def give():
            with contextlib.suppress(OSError):
                while True:
                    due, block = under_way.get()
                    time.sleep(max(0, due - time.monotonic()))
                    if not block:
                        sink.shutdown(socket.SHUT_WR)
                        return
                    sink.sendall(block)

        threading.Thread(target=take, daemon=True).start()
        threading.Thread(target=give, daemon=True).start()


@pytest.fixture(scope="module")
def batches(moto_process, tmp_path_factory):
    """A gateway whose buckets take archives."""
    directory = tmp_path_factory.mktemp("batches")
    process = Gateway(directory, moto_process.endpoint, settings=SETTINGS)
    process.directory = directory
    yield process
    assert process.stop() == 0


def minio(endpoint):
    endpoint = endpoint.removeprefix("http://")
    return Minio(endpoint, ACCESS_KEY, SECRET_KEY, region=REGION, secure=False)


def objects(count, prefix="many"):
    return {f"{prefix}/{i % 100}/{i}": payload(40 + i % 200, i) for i in range(count)}


def snowball(bodies):
    return [
        SnowballObject(key, data=io.BytesIO(body), length=len(body))
        for key, body in bodies.items()
    ]


def folder(gateway, bucket):
    """The embedded backend's objects: they are files."""
    root = gateway.directory / "objects" / bucket
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in files
        if ".internal." not in path.name
    }


def test_every_object_arrives(batches, moto):
    """Through minio-py to moto, packed and not, with metadata."""
    for compression in (False, True):
        sent = objects(200, f"packed-{compression}")
        minio(batches.endpoint).upload_snowball_objects(
            "uploads",
            snowball(sent),
            metadata={"X-Amz-Meta-Owner": "me"},
            compression=compression,
        )
        keys = [key for key in moto.keys() if key.startswith(f"packed-{compression}/")]
        assert sorted(keys) == sorted(sent)
        for key, body in list(sent.items())[::20]:
            assert moto.body(key) == body
            assert moto.head(key)["Metadata"] == {"owner": "me"}
    assert not any(key.startswith("snowball.") for key in moto.keys())


def test_options(batches, moto):
    """MinIO's own headers, as minio-py passes them."""
    minio(batches.endpoint).upload_snowball_objects(
        "uploads",
        snowball({"a": b"1", "../b": b"2", "c": b"3"}),
        metadata={
            "X-Amz-Meta-Minio-Snowball-Prefix": "in",
            "X-Amz-Meta-Minio-Snowball-Ignore-Errors": "true",
        },
    )
    assert sorted(moto.keys()) == ["in/a", "in/c"]


def test_refusals_reach_the_client(batches):
    """A bucket that takes none, and a name that leads elsewhere: nothing is stored."""
    client = minio(batches.endpoint)
    with pytest.raises(S3Error) as refused:
        client.upload_snowball_objects("closed", snowball({"a": b"1"}))
    assert refused.value.code == "AccessDenied"
    with pytest.raises(S3Error) as refused:
        client.upload_snowball_objects("embedded", snowball({"x": b"1", "../b": b"2"}))
    assert refused.value.code == "InvalidArgument"
    assert "../b" in refused.value.message
    assert not (batches.directory / "objects" / "files" / "x").exists()


def test_write_back(batches):
    """Acknowledged from the spool, and delivered."""
    sent = objects(300, "later")
    minio(batches.endpoint).upload_snowball_objects("back", snowball(sent), compression=True)
    eventually("all is delivered", lambda: folder(batches, "back") == sent)


def test_a_form_of_files(batches, moto):
    """Signed by botocore, sent by requests; a line for each file as it ends."""
    url = f"{batches.endpoint}/uploads?batch=&prefix=2026%2F11"
    sent = {f"folder/{i}.txt": payload(100, i) for i in range(50)}
    files = [(key, ("f", body)) for key, body in {**sent, "../evil": b"e"}.items()]
    request = requests.Request("POST", url, files=files).prepare()
    headers = {"content-type": request.headers["content-type"]}
    signed = AWSRequest("POST", url, headers=headers, data=request.body)
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", REGION).add_auth(signed)
    request.headers.update(dict(signed.headers))
    with requests.Session().send(request, stream=True) as answer:
        assert answer.status_code == 200, answer.text
        *lines, last = [json.loads(line) for line in answer.iter_lines()]
    assert last["summary"] == {"entries": 51, "stored": 50, "skipped": 0, "failed": 1}
    assert {line["key"] for line in lines if line["status"] == 200} == {
        f"2026/11/{key}" for key in sent
    }
    assert sorted(moto.keys()) == sorted(f"2026/11/{key}" for key in sent)
    assert moto.body("2026/11/folder/7.txt") == sent["folder/7.txt"]


def measured(batches, bucket):
    """Seconds for 5,000 objects over the link: as one archive, one by one, 32 at a time."""
    link = Link(batches.endpoint, DELAY)
    client = minio(link.endpoint)
    client._http.connection_pool_kw["maxsize"] = 32

    def put(entry):
        client.put_object(bucket, entry[0], io.BytesIO(entry[1]), len(entry[1]))

    sent = objects(OBJECTS, "snowball")
    started = time.monotonic()
    client.upload_snowball_objects(bucket, snowball(sent))
    archive = time.monotonic() - started

    single = list(objects(SAMPLE, "single").items())
    started = time.monotonic()
    for entry in single:
        put(entry)
    sequential = (time.monotonic() - started) * OBJECTS / SAMPLE

    started = time.monotonic()
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(put, objects(OBJECTS, "parallel").items()))
    parallel = time.monotonic() - started

    def all_there():
        there = folder(batches, FOLDERS[bucket])
        return {key: there.get(key) for key in sent} == sent

    eventually("all are present and equal", all_there)
    print(f"\n{bucket}: {archive:.2f} s; one by one {sequential:.1f} s, 32 at a time {parallel:.2f} s")
    return archive, sequential, parallel


# The backend's folder of each bucket.
FOLDERS = {"embedded": "files", "back": "back"}


def test_one_archive_beats_single_puts_over_a_slow_link(batches):
    """5,000 objects, "all present and equal; >= 20 x faster than 5,000 sequential single PUTs over a 20 ms
    link, and >= 3 x faster than 32-way parallel PUTs". In write-back mode: that is the gateway's own time,
    without that of the backend, which is in the same process here."""
    archive, sequential, parallel = measured(batches, "back")
    assert sequential >= 20 * archive
    assert parallel >= 3 * archive


def test_an_archive_that_goes_through_beats_them_too(batches):
    """The same in write-through mode. The embedded backend takes most of the time in either case, on as
    many cores as the gateway and the client leave it: so the bounds are half as far."""
    archive, sequential, parallel = measured(batches, "embedded")
    assert sequential >= 10 * archive
    assert parallel >= 1.5 * archive
