"""The AWS SDK for JavaScript (v3), over HTTP and over HTTPS: what the backend has afterwards is
what it has when the same client uploads to it directly.

One run of js/upload.mjs carries out every upload of a route.
"""

import json
from types import SimpleNamespace

import pytest
from support import (
    ACCESS_KEY,
    BUCKET,
    CHECKSUMS,
    MB,
    REGION,
    REPOSITORY,
    SECRET_KEY,
    STORE,
    TERMINATORS,
    TRAILER_BUCKET,
    Route,
    run,
    succeeded,
    write_file,
)

SCRIPT = REPOSITORY / "tests" / "clients" / "js" / "upload.mjs"
MIB = 1024 * 1024
DESCRIPTION = {
    "ContentType": "text/x",
    "ContentEncoding": "gzip",
    "CacheControl": "max-age=60",
    "Metadata": {"colour": "blue"},
}
# How the script uploads, and how much.
WAYS = {
    "buffer": MB,
    "stream": MB,
    "multipart": 12 * MIB,
    "endless": 12 * MIB,
    "presigned": MB,
    "presigned stream": 12 * MIB,
}
CALCULATIONS = ["WHEN_SUPPORTED", "WHEN_REQUIRED"]
ALGORITHMS = [None, *CHECKSUMS]
EACH = [
    (way, calculation, algorithm)
    for way in WAYS
    for calculation in CALCULATIONS
    for algorithm in ALGORITHMS
    # A checksum in a presigned URL has no effect: one will do.
    if not (way.startswith("presigned") and algorithm not in (None, "CRC32"))
]


@pytest.fixture(scope="module")
def uploaded(moto_process, routes, tmp_path_factory):
    """Carries out EACH to a bucket, and yields each one's outcome and object."""
    directory = tmp_path_factory.mktemp("js")
    files = {size: directory / str(size) for size in WAYS.values()}
    sha256 = {size: write_file(file, size) for size, file in files.items()}
    known = {}

    def upload(route, bucket):
        uploads = [
            {
                "way": way,
                "file": str(files[WAYS[way]]),
                "size": WAYS[way],
                "calculation": calculation,
                "input": {
                    **DESCRIPTION,
                    "Bucket": bucket,
                    "Key": f"{way}/{calculation}/{algorithm}",
                    **({"ChecksumAlgorithm": algorithm} if algorithm else {}),
                },
            }
            for way, calculation, algorithm in EACH
        ]
        work = {
            "endpoint": route.endpoint,
            "region": REGION,
            "credentials": {"accessKeyId": ACCESS_KEY, "secretAccessKey": SECRET_KEY},
            "uploads": uploads,
        }
        environment = {"NODE_EXTRA_CA_CERTS": route.trusted} if route.trusted else {}
        moto_process.reset()
        outcome = run(["node", SCRIPT], input=json.dumps(work).encode(), environment=environment)
        results = json.loads(succeeded(outcome))
        stored = moto_process.keys()
        return {
            each: SimpleNamespace(
                error=result.get("error"),
                etag=result.get("ETag"),
                sha256=sha256[WAYS[each[0]]],
                object=moto_process.object(one["input"]["Key"])
                if one["input"]["Key"] in stored
                else None,
            )
            for each, one, result in zip(EACH, uploads, results, strict=True)
        }

    def of(name, bucket=BUCKET):
        if (name, bucket) not in known:
            direct = name == "direct"
            route = Route(moto_process.endpoint) if direct else routes[name]
            known[name, bucket] = upload(route, STORE if direct else bucket)
        return known[name, bucket]

    return of


each = pytest.mark.parametrize("each", EACH, ids=str)


@each
@pytest.mark.parametrize("route", ["http", *TERMINATORS])
def test_as_directly(uploaded, route, each):
    """PutObject of a Buffer and of a stream, lib-storage's Upload with and without a length, and a
    presigned URL (also for a stream, which fetch sends without its length): bytes, description and
    ETag are those of a direct upload; no `aws-chunked` is left."""
    through, direct = uploaded(route, BUCKET)[each], uploaded("direct")[each]
    assert (through.error, direct.error) == (None, None)
    assert through.object.sha256 == through.sha256
    assert through.object.described == direct.object.described
    assert through.object.described["ContentEncoding"] == (
        None if each[0].startswith("presigned") else "gzip"
    )
    assert through.etag == direct.object.described["ETag"]


@each
@pytest.mark.parametrize("route", ["http", *TERMINATORS])
def test_checksums_as_directly(uploaded, route, each):
    """With `s3.verifies: [.., trailer]` the backend also has the checksums of a direct upload."""
    through, direct = uploaded(route, TRAILER_BUCKET)[each], uploaded("direct")[each]
    assert through.error is None
    assert through.object == direct.object
