"""Every checksum in every place of every upload, right and wrong: what is answered, what is stored.

The tables in docs/checksums.md are what this file measures: it fails when they differ.
`MIZUCHI_WRITE_DOCS=1` writes them.
"""

import itertools
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from raw import SIGNED_TRAILER, UNSIGNED, UNSIGNED_TRAILER, element, send, sha256
from strict_s3 import DIGESTS, StrictS3, content_md5, digest
from support import REPOSITORY, Gateway, eventually, payload

DOCUMENT = REPOSITORY / "docs" / "checksums.md"

SETTINGS = """\
server:
  address: 127.0.0.1:0
  workers: 2
  state_directory: {directory}/state
  zero_copy:
    enabled: ZERO_COPY
admin:
  address: 127.0.0.1:0
auth:
  sigv4:
    credentials:
      - access_key: {access_key}
        secret_key: {secret_key}
buckets:
  - name: {bucket}
    s3:
      bucket: {store}
      region: {region}
      endpoint: {endpoint}
      access_key: backend
      secret_key: backend
      VERIFIES
    upload:
      multipart_threshold: 5MiB
      part_size: 5MiB
"""

# `s3.verifies`, and whether the backend looks at what is said of the bytes: where it does not, what
# is refused the gateway has refused.
VERIFIES = {
    "default": ("", True),
    "[]": ("verifies: []", False),
    "all": ("verifies: [sha256, md5, checksum, trailer, full_object]", True),
}
ZERO_COPY = ["true", "false"]
CONFIGURATIONS = list(itertools.product(VERIFIES, ZERO_COPY))

SMALL, MIDDLE, LARGE = 1000, 100_000, 6 * 1024 * 1024
# An upload: bytes of its body, and whether it is sent without a length.
UPLOADS = {
    "PutObject, 1000 B": (SMALL, False),
    "PutObject": (MIDDLE, False),
    "UploadPart": (MIDDLE, False),
    "PutObject above the threshold": (LARGE, False),
    "unknown length, up to a part": (MIDDLE, True),
    "unknown length, more": (LARGE, True),
}
BODIES = {size: payload(size) for size in [SMALL, MIDDLE, LARGE]}

HEADERS = {name: f"x-amz-checksum-{name.lower()}" for name in DIGESTS}
HEADERS |= {"Content-MD5": "content-md5", "x-amz-content-sha256": "x-amz-content-sha256"}
RIGHT, WRONG = {}, {}
for size, body in BODIES.items():
    for values, text in [(RIGHT, body), (WRONG, body[1:] + body[:1])]:
        values[size] = {name: digest(name, text) for name in DIGESTS}
        values[size] |= {"Content-MD5": content_md5(text), "x-amz-content-sha256": sha256(text)}
MODES = {"trailer": UNSIGNED_TRAILER, "signed trailer": SIGNED_TRAILER}
CASES = ["right", "wrong", "malformed", "absent"]


@dataclass(frozen=True)
class Cell:
    upload: str
    # "none": nothing is said of the bytes.
    checksum: str
    place: str
    case: str

    @property
    def size(self):
        return UPLOADS[self.upload][0]

    @property
    def chunked(self):
        return UPLOADS[self.upload][1]


def cells():
    """All that can be sent. Trailers need a decoded length, so there is none of unknown length; and
    only S3's own checksums can be trailers: `test_not_possible` has the others."""
    for upload, (_, chunked) in UPLOADS.items():
        yield Cell(upload, "none", "-", "right")
        for checksum, case in itertools.product(HEADERS, CASES):
            if case != "absent" or checksum == "x-amz-content-sha256":
                yield Cell(upload, checksum, "header", case)
        if not chunked:
            for checksum, place, case in itertools.product(DIGESTS, MODES, CASES):
                yield Cell(upload, checksum, place, case)


ANSWERS = {
    "header": {
        "right": "200",
        "wrong": "400 BadDigest",
        "malformed": "400 InvalidRequest",
    },
    "trailer": {
        "right": "200",
        "wrong": "400 BadDigest",
        "malformed": "400 MalformedTrailerError",
        "absent": "400 MalformedTrailerError",
    },
    "Content-MD5": {
        "right": "200",
        "wrong": "400 BadDigest",
        "malformed": "400 InvalidDigest",
    },
    "x-amz-content-sha256": {
        "right": "200",
        "wrong": "400 XAmzContentSHA256Mismatch",
        "malformed": "400 InvalidArgument",
        "absent": "400 MissingSecurityHeader",
    },
}


def expected(cell):
    """What is answered: the same whoever verifies, whichever way the bytes go."""
    kind = "trailer" if cell.place in MODES else "header"
    return ANSWERS.get(cell.checksum, ANSWERS[kind])[cell.case]


def value(cell):
    if cell.case == "malformed":
        # base64 of too few bytes; no hexadecimal digits.
        return "AAA="
    return {"right": RIGHT, "wrong": WRONG}[cell.case][cell.size][cell.checksum]


def request(cell):
    """What `send` takes for a cell: headers, and the trailers' lines."""
    headers = {"x-amz-content-sha256": UNSIGNED, "Content-Type": "text/x"}
    if cell.checksum == "none":
        return headers, None
    name = HEADERS[cell.checksum]
    if cell.place == "header":
        if cell.checksum in DIGESTS:
            # As SDKs do.
            headers["x-amz-sdk-checksum-algorithm"] = cell.checksum
        if cell.case == "absent":
            del headers[name]
        else:
            headers[name] = value(cell)
        return headers, None
    headers["x-amz-content-sha256"] = MODES[cell.place]
    headers["x-amz-decoded-content-length"] = str(cell.size)
    headers["x-amz-trailer"] = name
    headers["x-amz-sdk-checksum-algorithm"] = cell.checksum
    headers["Content-Encoding"] = "aws-chunked"
    return headers, [] if cell.case == "absent" else [f"{name}:{value(cell)}"]


@dataclass(frozen=True)
class Result:
    """One cell, measured."""

    answer: str
    way: str = "-"
    sent_as: str = "-"
    stored: str = "-"
    # What ought not to be.
    fault: str = ""


def measure(site, cell):
    """Sends a cell; what is left of it at the backend."""
    key = re.sub(
        r"[^a-z0-9]+", "-", f"{cell.upload} {cell.checksum} {cell.place} {cell.case}".lower()
    )
    target = f"/uploads/{key}"
    headers, trailers = request(cell)
    endpoint, backend = site.gateway.endpoint, site.backend
    body = BODIES[cell.size]
    part = cell.upload == "UploadPart"
    if part:
        created = send(endpoint, "POST", f"{target}?uploads", {"x-amz-content-sha256": UNSIGNED})
        upload_id = element(created.body, "UploadId")
        query = f"?partNumber=1&uploadId={upload_id}"
        answer = send(endpoint, "PUT", target + query, headers, body, trailers, cell.chunked)
        opened = backend.open_uploads(key)[0]
        stored = opened.parts.get(1)
        if stored:
            complete(endpoint, target, upload_id, stored.etag)
            stored.parts = 0
            if backend.objects[key].body != body:
                return Result(str(answer), fault="the object differs")
        else:
            abort = {"x-amz-content-sha256": UNSIGNED}
            send(endpoint, "DELETE", f"{target}?uploadId={upload_id}", abort)
    else:
        answer = send(endpoint, "PUT", target, headers, body, trailers, cell.chunked)
        stored = backend.objects.get(key)
    way = site.ways(answer.headers["x-amz-request-id"])
    eventually(f"no upload of {key} is open", lambda: not backend.open_uploads(key))
    if stored is None:
        fault = "no object" if answer.status == 200 else ""
        return Result(str(answer), way, fault=fault)
    fault = ""
    if answer.status != 200:
        fault = "there is an object"
    elif stored.body != body:
        fault = "the object differs"
    elif "aws-chunked" in stored.headers.get("content-encoding", ""):
        fault = "aws-chunked is stored"
    elif answer.headers["etag"] != f'"{stored.etag}"':
        fault = "another ETag"
    elif any(text != RIGHT[cell.size][name] for name, text in stored.checksums.items()):
        fault = "another checksum"
    kept = ", ".join(stored.checksums) or "-"
    sent_as = f"{stored.parts} parts" if stored.parts else "whole"
    return Result(str(answer), way, sent_as, kept, fault)


def complete(endpoint, target, upload_id, etag):
    document = (
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber>"
        f"<ETag>&quot;{etag}&quot;</ETag></Part></CompleteMultipartUpload>"
    ).encode()
    headers = {"x-amz-content-sha256": sha256(document)}
    answer = send(endpoint, "POST", f"{target}?uploadId={upload_id}", headers, document)
    assert str(answer) == "200", answer.body


class Site:
    """A gateway with its backend."""

    def __init__(self, directory, verifies, zero_copy):
        lines, strict = VERIFIES[verifies]
        self.backend = StrictS3(strict)
        settings = SETTINGS.replace("ZERO_COPY", zero_copy).replace("VERIFIES", lines)
        self.gateway = Gateway(directory, self.backend.endpoint, settings=settings)

    def ways(self, request_id):
        """splice or copy, as the access log has it."""
        pattern = re.compile(rf"request_id={request_id} .* plan=(\S+) ")

        def look():
            with open(self.gateway.log_file, "rb") as log:
                log.seek(max(0, self.gateway.log_file.stat().st_size - 16384))
                return pattern.search(log.read().decode(errors="replace"))

        return eventually(f"{request_id} in the log", look).group(1)

    def stop(self):
        status = self.gateway.stop()
        self.backend.stop()
        assert status == 0


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    made = {
        configuration: Site(tmp_path_factory.mktemp("matrix"), *configuration)
        for configuration in CONFIGURATIONS
    }
    yield made
    for site in made.values():
        site.stop()


@pytest.fixture(scope="module")
def measured(sites):
    """Every cell at every configuration, some at a time."""
    work = [(configuration, cell) for cell in cells() for configuration in CONFIGURATIONS]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda one: measure(sites[one[0]], one[1]), work))
    return SimpleNamespace(of=dict(zip(work, results, strict=True)))


def unexpected(measured, configuration, upload, cases):
    """The cells that were answered otherwise, or left something else behind, than they ought to."""
    results = {
        cell: measured.of[configuration, cell]
        for cell in cells()
        if cell.upload == upload and cell.case in cases
    }
    return {
        cell: result
        for cell, result in results.items()
        if result.fault or result.answer != expected(cell)
    }


def each(test):
    """At every configuration, with every upload."""
    configurations = pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
    return configurations(pytest.mark.parametrize("upload", UPLOADS)(test))


@each
def test_right(measured, configuration, upload):
    """A body that is what was said of it is stored, byte by byte, and its ETag answered."""
    assert not unexpected(measured, configuration, upload, ["right"])


@each
def test_wrong(measured, configuration, upload):
    """A body that is not what was said of it is refused by name, whoever verifies it; nothing is
    stored, and no multipart upload stays open."""
    assert not unexpected(measured, configuration, upload, ["wrong"])


@each
def test_malformed_or_absent(measured, configuration, upload):
    """What cannot be a checksum, and what was announced and did not come, is refused by name;
    nothing is stored."""
    assert not unexpected(measured, configuration, upload, ["malformed", "absent"])


def test_copied_when_zero_copy_is_off(measured):
    """`server.zero_copy.enabled: false`: every body is copied, and nothing else is different."""

    def but_for_its_way(result):
        return result.answer, result.sent_as, result.stored

    for verifies, cell in itertools.product(VERIFIES, cells()):
        copied = measured.of[(verifies, "false"), cell]
        assert copied.way in ("copy", "-"), cell
        spliced = measured.of[(verifies, "true"), cell]
        assert but_for_its_way(copied) == but_for_its_way(spliced), cell


# What no client can ask for, and what comes of it: an upload, headers, trailers, what follows a
# chunked body.
CRC32 = RIGHT[MIDDLE]["CRC32"]
DECODED = {"x-amz-decoded-content-length": str(MIDDLE)}
NOT_POSSIBLE = {
    "`x-amz-trailer` on a body that is not aws-chunked": (
        "400 InvalidRequest",
        {
            "headers": {
                "x-amz-content-sha256": UNSIGNED,
                "x-amz-trailer": "x-amz-checksum-crc32",
            },
        },
    ),
    "`x-amz-trailer: content-md5`": (
        "400 InvalidRequest",
        {
            "headers": {
                "x-amz-content-sha256": UNSIGNED_TRAILER,
                "x-amz-trailer": "content-md5",
                **DECODED,
            },
            "trailers": [f"content-md5:{RIGHT[MIDDLE]['Content-MD5']}"],
        },
    ),
    "`x-amz-trailer: x-amz-content-sha256`": (
        "400 InvalidRequest",
        {
            "headers": {
                "x-amz-content-sha256": UNSIGNED_TRAILER,
                "x-amz-trailer": "x-amz-content-sha256",
                **DECODED,
            },
            "trailers": [f"x-amz-content-sha256:{RIGHT[MIDDLE]['x-amz-content-sha256']}"],
        },
    ),
    "a trailer that `x-amz-trailer` does not announce": (
        "400 InvalidRequest",
        {
            "headers": {"x-amz-content-sha256": UNSIGNED_TRAILER, **DECODED},
            "trailers": [f"x-amz-checksum-crc32:{CRC32}"],
        },
    ),
    "a trailer, the payload's length unknown (no `x-amz-decoded-content-length`)": (
        "411 MissingContentLength",
        {
            "headers": {
                "x-amz-content-sha256": UNSIGNED_TRAILER,
                "x-amz-trailer": "x-amz-checksum-crc32",
            },
            "trailers": [f"x-amz-checksum-crc32:{CRC32}"],
            "chunked": True,
        },
    ),
    "UploadPart of unknown length": (
        "411 MissingContentLength",
        {"headers": {"x-amz-content-sha256": UNSIGNED}, "chunked": True, "part": True},
    ),
    "`x-amz-checksum-md5`, `-sha512`, `-xxhash64`, `-xxhash3`, `-xxhash128`": (
        "501 NotImplemented",
        {"headers": {"x-amz-content-sha256": UNSIGNED, "x-amz-checksum-sha512": "AAAA"}},
    ),
    "one of these as a trailer": (
        "400 InvalidRequest",
        {
            "headers": {
                "x-amz-content-sha256": UNSIGNED_TRAILER,
                "x-amz-trailer": "x-amz-checksum-sha512",
                **DECODED,
            },
            "trailers": ["x-amz-checksum-sha512:AAAA"],
        },
    ),
    "two checksums in headers": (
        "400 InvalidRequest",
        {
            "headers": {
                "x-amz-content-sha256": UNSIGNED,
                "x-amz-checksum-crc32": CRC32,
                "x-amz-checksum-sha1": RIGHT[MIDDLE]["SHA1"],
            }
        },
    ),
    "a checksum of parts' checksums (`…-2`) on a body": (
        "400 InvalidRequest",
        {"headers": {"x-amz-content-sha256": UNSIGNED, "x-amz-checksum-crc32": f"{CRC32}-2"}},
    ),
}


def not_possible(site, number, sent):
    """One of those: what is answered."""
    target = f"/uploads/not-possible-{number}"
    query = ""
    if sent.get("part"):
        created = send(site.gateway.endpoint, "POST", f"{target}?uploads", sent["headers"])
        query = f"?partNumber=1&uploadId={element(created.body, 'UploadId')}"
    answer = send(
        site.gateway.endpoint,
        "PUT",
        target + query,
        sent["headers"],
        BODIES[MIDDLE],
        sent.get("trailers"),
        sent.get("chunked", False),
    )
    assert target.rpartition("/")[2] not in site.backend.objects, answer
    return str(answer)


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("what", NOT_POSSIBLE)
def test_not_possible(sites, configuration, what):
    """What S3 has no meaning for is refused by name, and nothing is stored."""
    answer, sent = NOT_POSSIBLE[what]
    number = list(NOT_POSSIBLE).index(what)
    assert not_possible(sites[configuration], number, sent) == answer


def test_http_trailers(sites):
    """A field after a chunked body is HTTP's, which S3 gives no meaning: it is discarded, and the
    object is the body."""
    for site in sites.values():
        headers = {"x-amz-content-sha256": UNSIGNED, "Trailer": "x-amz-checksum-crc32"}
        answer = send(
            site.gateway.endpoint,
            "PUT",
            "/uploads/http-trailer",
            headers,
            BODIES[MIDDLE],
            chunked=True,
            http_trailers=b"x-amz-checksum-crc32: AAAAAA==\r\n",
        )
        assert str(answer) == "200"
        stored = site.backend.objects["http-trailer"]
        assert (stored.body, stored.checksums) == (BODIES[MIDDLE], {})


# -- the document -------------------------------------------------------------------------------


def joined(results, name):
    """One value for every setting of `verifies`; all three if they differ."""
    values = [getattr(result, name) for result in results]
    return values[0] if len(set(values)) == 1 else " · ".join(values)


def table(measured):
    """The matrix with zero copy on, its like lines in one."""
    lines = {}
    for upload, (_, _) in UPLOADS.items():
        places = dict.fromkeys(
            (cell.checksum, cell.place) for cell in cells() if cell.upload == upload
        )
        for checksum, place in places:
            answers = []
            for case in CASES:
                cell = Cell(upload, checksum, place, case)
                found = {
                    measured.of[configuration, cell].answer
                    for configuration in CONFIGURATIONS
                    if (configuration, cell) in measured.of
                }
                assert len(found) < 2, (cell, found)
                answers.append(found.pop() if found else "-")
            right = Cell(upload, checksum, place, "right")
            results = [measured.of[(verifies, "true"), right] for verifies in VERIFIES]
            stored = joined(results, "stored").replace(checksum, "it")
            columns = (*answers, joined(results, "way"), joined(results, "sent_as"), stored)
            lines.setdefault((upload, columns), []).append((checksum, place))
    for (upload, columns), those in lines.items():
        checksums = ", ".join(dict.fromkeys(checksum for checksum, _ in those))
        places = ", ".join(dict.fromkeys(place for _, place in those))
        yield " | ".join([f"| {upload}", checksums, places, *columns]) + " |"


HEAD = [
    "upload",
    "checksum",
    "in",
    "right",
    "wrong",
    "malformed",
    "absent",
    "way",
    "sent as",
    "stored",
]


def ruled(head, lines):
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines])


def test_the_document_says_what_was_measured(measured):
    """docs/checksums.md holds these tables, and no others between its marks."""
    tables = {
        "matrix": ruled(HEAD, table(measured)),
        "not possible": ruled(
            ["request", "answer"],
            [f"| {what} | {answer} |" for what, (answer, _) in NOT_POSSIBLE.items()],
        ),
    }
    text = DOCUMENT.read_text()
    for name, lines in tables.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"\n<!-- end of {name} -->")
        assert begin and end, f"no marks of {name}"
        text = before + begin + lines + end + after
    if os.environ.get("MIZUCHI_WRITE_DOCS"):
        DOCUMENT.write_text(text)
    assert DOCUMENT.read_text() == text, "MIZUCHI_WRITE_DOCS=1 writes it"
