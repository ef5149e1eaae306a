"""aws-cli over HTTP and over HTTPS: what the backend has afterwards is what it has when the same
command uploads to it directly."""

import pytest
from support import (
    BUCKET,
    CHECKSUMS,
    MB,
    SCRIPTS,
    STORE,
    TERMINATORS,
    TRAILER_BUCKET,
    Route,
    run,
    succeeded,
    write_file,
)

MIB = 1024 * 1024
DESCRIPTION = ["--content-type", "text/x", "--content-encoding", "gzip", "--metadata", "a=b"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("aws")
    for size in [MB, 12 * MIB]:
        write_file(directory / str(size), size)
    return directory


def copy(files, bucket, *options):
    """In parts: from 8 MiB on."""
    return ["s3", "cp", "--no-progress", *options, files / str(12 * MIB), f"s3://{bucket}/object"]


def copy_from_stdin(files, bucket, *options):
    return ["s3", "cp", "--no-progress", *options, "-", f"s3://{bucket}/object"]


def put_object(files, bucket, *options):
    where = ["--bucket", bucket, "--key", "object", "--body", files / str(MB)]
    return ["s3api", "put-object", *where, *options]


@pytest.fixture(scope="module")
def upload(moto_process, files):
    """Runs aws-cli with a command; what the backend then has."""

    def carry_out(route, command, bucket, options):
        words = [SCRIPTS / "aws", "--endpoint-url", route.endpoint]
        words += ["--ca-bundle", route.trusted] if route.trusted else []
        with open(files / str(12 * MIB), "rb") as body:
            stdin = {"stdin": body} if command is copy_from_stdin else {}
            succeeded(run([*words, *command(files, bucket, *DESCRIPTION, *options)], **stdin))
        return moto_process.object("object")

    return carry_out


@pytest.fixture(scope="module")
def direct(moto_process, upload):
    """What the backend has of a command's upload that went to it directly."""
    known = {}

    def of(command, options):
        if (command, options) not in known:
            known[command, options] = upload(Route(moto_process.endpoint), command, STORE, options)
        return known[command, options]

    return of


COMMANDS = [(copy, ()), (copy_from_stdin, ())] + [
    (command, ("--checksum-algorithm", algorithm))
    for command in [put_object, copy]
    for algorithm in CHECKSUMS
]


@pytest.mark.parametrize(
    ("command", "options"),
    COMMANDS,
    ids=[" ".join([command.__name__, *options[1:]]) for command, options in COMMANDS],
)
@pytest.mark.parametrize("route", ["http", *TERMINATORS])
def test_as_directly(routes, moto, upload, direct, route, command, options):
    """`aws s3 cp` of a file and of standard input, `aws s3api put-object` and `aws s3 cp` with each
    --checksum-algorithm: bytes, description, ETag and checksums are those of a direct upload."""
    # Larger bodies' trailers are stored only where they go on to the backend.
    bucket = BUCKET if route == "http" else TRAILER_BUCKET
    expected = direct(command, options)
    assert expected.described["ContentEncoding"] == "gzip"
    assert upload(routes[route], command, bucket, options) == expected
