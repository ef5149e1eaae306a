"""R6: "spool disk full: 503 SlowDown before reading the body; nothing acknowledged lost; recovers
within 5 s after space returns"."""

import socket
import subprocess
import time
from urllib.parse import urlsplit

import pytest
from rig import needs_root
from support import eventually

MIB = 1 << 20
ROOM = 48 * MIB
MIN_FREE = 16 * MIB


@pytest.fixture
def small(tmp_path):
    """A file system of 48 MiB."""
    needs_root("mounting a file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "spool", folder]
    subprocess.run(mount, check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def asked(gateway, length):
    """All that is answered to a head whose client waits for 100 Continue before its body."""
    url = urlsplit(gateway.endpoint)
    with socket.create_connection((url.hostname, url.port), 20) as client:
        head = f"PUT /uploads/asked-{length} HTTP/1.1\r\nHost: {url.netloc}\r\n"
        head += f"Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        client.sendall(head.encode())
        return client.recv(65536).decode()


def is_refused(gateway, length):
    answer = asked(gateway, length)
    if answer.startswith("HTTP/1.1 100 "):
        return False
    assert answer.startswith("HTTP/1.1 503 ") and "<Code>SlowDown</Code>" in answer, answer
    return True


@pytest.mark.long
def test_a_full_disk(rig, small):
    rig.spool = small / "spool"
    rig.min_free = str(MIN_FREE)
    rig.backend.away = True
    gateway = rig.start()
    assert gateway.ready(), gateway.log()
    # Until the disk says no; and then to all, small ones too, before a byte of them is asked for.
    statuses = [rig.put(f"{number}-1500000") for number in range(30)]
    took = statuses.count(200)
    assert 5 < took < 25 and set(statuses) == {200, 503}, statuses
    assert is_refused(gateway, 4 * MIB)
    assert gateway.metric("mizuchi_spool_latched") == 0
    # Without a length it is known only on the way: no 200, nothing left of it.
    assert rig.put("unknown-40000000", chunked=True) in (503, None)
    eventually("it is removed", lambda: len(rig.bodies()) == took)
    # Somebody else takes what is left: not even a small one is taken, and the journal is whole.
    with open(small / "other", "wb") as other:
        with pytest.raises(OSError):
            while True:
                other.write(b"x" * 65536)
                other.flush()
    eventually("a small one is refused", lambda: is_refused(gateway, 10))
    (small / "other").unlink()
    began = time.monotonic()
    eventually("a small one is taken", lambda: not is_refused(gateway, 10))
    of_other = time.monotonic() - began
    # The backend comes back: so does the room.
    rig.backend.away = False
    began = time.monotonic()
    eventually("there is room", lambda: not is_refused(gateway, 4 * MIB))
    of_backend = time.monotonic() - began
    print(f"{took} taken; room again after {of_other:.1f} s and {of_backend:.1f} s")
    assert of_other < 5 and of_backend < 5
    assert gateway.metric("mizuchi_spool_latched") == 0
    assert rig.put("after-1500000") == 200
    assert gateway.stop() == 0
    rig.check()
