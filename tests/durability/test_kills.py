"""R2: "kill at every persistence syscall: 0 lost, 0 partial, spool folder back at baseline"."""

import signal

import pytest
from rig import tracer

# Each way twice: strace counts for each thread, so that one may die at an index before another has
# come to it. Up to 64 KiB stand in the journal, what is more in a file.
ROUND = [
    ("inline-100", False),
    ("file-70000", False),
    ("large-1300000", False),
    ("chunked-300000", True),
    ("inline-60000", False),
]
UPLOADS = [(f"{round}/{key}", chunked) for round in range(2) for key, chunked in ROUND]
# The names of the first run's bodies: a number is the run in its upper 24 bits.
BODIES = [[f"bodies/{(1 << 40) + count:016x}"] for count in range(1, 7)]
JOURNAL = [["journal.redb"]]
FOLDERS = [["."], ["bodies"]]
# The calls by which each of them comes to the disk, and how many there must be: a filter that
# matches nothing would show nothing. Each list of files is gone through by itself.
PLACES = [
    (JOURNAL, "pwrite64", 60),
    (JOURNAL, "fdatasync,fsync", 12),
    (JOURNAL, "ftruncate", 1),
    (JOURNAL, "openat", 1),
    (FOLDERS, "fsync,fdatasync", 6),
    (FOLDERS, "mkdir,mkdirat,rename,renameat,renameat2", 1),
    (BODIES, "openat", 6),
    (BODIES, "fallocate", 4),
    (BODIES, "write,writev,pwrite64,pwritev", 6),
    (BODIES, "fdatasync,fsync", 6),
    (BODIES, "unlink,unlinkat", 6),
]
# Of the short form: which file, and which of its calls.
SHORT = [
    ("journal.redb", "pwrite64", 50),
    ("journal.redb", "fdatasync,fsync", 10),
    ("bodies", "fsync,fdatasync", 3),
    (BODIES[1][0], "write,writev", 1),
    (BODIES[2][0], "fdatasync,fsync", 1),
    (BODIES[3][0], "unlink,unlinkat", 1),
]


def uploads(rig):
    """All of them, while deliveries take what came before out again. False: the gateway was killed."""
    if not rig.running.ready():
        return False
    for key, chunked in UPLOADS:
        status = rig.put(key, chunked=chunked)
        if status is None:
            return False
        assert status == 200, rig.running.log()
    while not (empty := rig.is_empty()):
        if empty is None:
            return False
    # The journal is closed in the end.
    return rig.running.stop() == 0


def killed_at(rig, places, calls, index):
    """Whether there was a call of that index; whatever it was, nothing is lost."""
    rig.begin_anew()
    rig.start(tracer(rig, places, calls, "signal=SIGKILL", index))
    if uploads(rig):
        return False
    assert rig.running.child.wait(20) == -signal.SIGKILL, rig.running.log()
    rig.check()
    return True


@pytest.mark.parametrize("file,calls,index", SHORT)
def test_some_calls(rig, file, calls, index):
    """What runs each time: the others are `make faults-long`'s."""
    assert killed_at(rig, [file], calls, index)


@pytest.mark.long
@pytest.mark.parametrize("lists,calls,least", PLACES)
def test_every_call(rig, lists, calls, least):
    """Each index once, until a run ends unkilled."""
    kills = 0
    for files in lists:
        index = 1
        while killed_at(rig, files, calls, index):
            index += 1
        kills += index - 1
    print(f"{calls} on {[files[0] for files in lists]}: {kills} kills")
    assert kills >= least
