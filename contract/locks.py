"""Locks on files, which the kernel gives back when their holder ends, however that happens.

They need ``flock``. Lustre has it if mounted with ``-o flock``, NFS if its lock daemon runs; where it is missing there
is no substitute that survives a killed holder, so what needs a lock is refused there.
"""

import errno
import fcntl
import os
from typing import IO

from contract.errors import OncoduetError

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)


def try_lock(file: IO[str], *, shared: bool = False, wait: bool = False) -> bool:
    """Take the lock of an open file, until it is closed; False if another process holds it.

    Parameters
    ----------
    shared
        Others may have it as well, if they share it too.
    wait
        Wait for whoever holds it.

    Raises
    ------
    OncoduetError
        The file lies where there are no locks.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, how if wait else how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise OncoduetError(
            file.name,
            expected="a file system with locks (flock; Lustre: mounted with -o flock)",
            found=os.strerror(error.errno),
        ) from None
    return True
