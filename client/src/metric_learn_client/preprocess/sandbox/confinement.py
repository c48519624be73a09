"""What a decoder process gives up before its first picture: privileges, files, processes, network, time, memory.

Called once in a freshly forked, single-threaded process; there is no way back. Resource limits, no_new_privs and the
loss of all capabilities always hold. Another user and the system call filter hold where the host allows them: `confine`
returns the names of what is in force, and the caller reports them. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
from collections.abc import Sequence

_NOBODY = 65534  # user and group, as the kernel's overflow ids

# What `confine` returns, in this order. All six hold on an ordinary Linux host where the server runs as root.
_RESOURCE_LIMITS = "resource limits"
_NO_NEW_PRIVILEGES = "no_new_privs"
_NO_CAPABILITIES = "no capabilities"
_OTHER_USER = "user nobody"
_NOT_TRACEABLE = "not traceable"
_SYSTEM_CALL_FILTER = "seccomp"

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38  # linux/prctl.h
_SECCOMP_MODE_FILTER = 2
_RET_ALLOW, _RET_EPERM = 0x7FFF0000, 0x00050000 | 1  # linux/seccomp.h: ERRNO with EPERM
# linux/filter.h, linux/bpf_common.h: load a word, jump if equal, jump if any bit is set, return
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_PROT_EXEC = 4

# machine -> (its column below, its name in seccomp_data: linux/audit.h)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
# The system calls that decoding needs, by number on x86_64 and aarch64. Every other one answers EPERM: a library that
# asks for something new falls back or fails on that picture, instead of on every picture of a new host.
# mmap, mprotect: without PROT_EXEC; tgkill: of this process, so that abort() is seen as SIGABRT.
_CALLS = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "setitimer": (38, 103),
    "getpid": (39, 172),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "exit_group": (231, 94),
    "tgkill": (234, 131),
    "getrandom": (318, 278),
}

_libc = ctypes.CDLL(None, use_errno=True)


def confine(*, parent: int, memory_bytes: int, cpu_s: int, seccomp: bool = True) -> list[str]:
    """Gives up everything but computing and talking on descriptors that are open. Returns what is in force.

    parent: whose end ends this process; memory_bytes: that the process may map beyond what it has; cpu_s: processor
    seconds of its whole life, then it is killed. seccomp=False leaves the filter out, for tests of what holds without.
    Raises OSError where something that must always hold cannot be had.
    """
    with open("/proc/self/statm") as statm:
        mapped_pages = int(statm.read().split()[0])
    _limit(resource.RLIMIT_AS, mapped_pages * resource.getpagesize() + memory_bytes)
    _limit(resource.RLIMIT_CPU, cpu_s)
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_MEMLOCK):
        _limit(kind, 0)
    _limit(resource.RLIMIT_NOFILE, 0)  # what is open stays open; nothing can be added
    other_user = _become_nobody()
    _drop_capabilities()  # also where root could not change its user: root without them is bound by RLIMIT_NPROC
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)  # after the change of user, which resets it: no neighbour can trace this process
    end_with_parent(parent)
    in_force = [_RESOURCE_LIMITS, _NO_NEW_PRIVILEGES, _NO_CAPABILITIES, _NOT_TRACEABLE]
    if other_user:
        in_force.append(_OTHER_USER)
    if seccomp and _filter_system_calls():
        in_force.append(_SYSTEM_CALL_FILTER)
    return in_force


def end_with_parent(parent: int) -> None:
    """The kernel kills this process when the thread of `parent` that started it ends; a change of user undoes that.
    Ends at once where the parent is gone already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _become_nobody() -> bool:
    """True where this process ran as root and now does not. Not possible in containers without CAP_SETUID."""
    if os.geteuid() != 0:
        return False
    try:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    except OSError:
        return False
    return True


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    if _libc.capset(header, bytes(24)):  # effective, permitted, inheritable: none; ambient goes with them
        raise OSError(ctypes.get_errno(), "capset")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _filter_system_calls() -> bool:
    """False where this kernel, container or processor has no system call filter."""
    if platform.machine() not in _MACHINES:
        return False
    program = ctypes.create_string_buffer(filter_program(platform.machine(), os.getpid()))
    fprog = struct.pack("@HP", len(program.raw) // 8, ctypes.addressof(program))
    return not _libc.prctl(
        _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), fprog, ctypes.c_ulong(0), ctypes.c_ulong(0)
    )


def filter_program(machine: str, pid: int) -> bytes:
    """The filter as classic BPF (struct sock_filter each): a system call of the table is allowed, others get EPERM."""
    column, architecture = _MACHINES[machine]
    program: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _RET_EPERM),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for name, numbers in _CALLS.items():
        # argument 2 is mmap's and mprotect's protection; argument 0 is tgkill's process
        if name in ("mmap", "mprotect"):
            check: Sequence[tuple[int, int, int, int]] = (
                (_LOAD, 0, 0, _ARGUMENTS + 8 * 2),
                (_ANY_BIT, 1, 0, _PROT_EXEC),
                (_RETURN, 0, 0, _RET_ALLOW),
                (_RETURN, 0, 0, _RET_EPERM),
            )
        elif name == "tgkill":
            check = (
                (_LOAD, 0, 0, _ARGUMENTS),
                (_EQUAL, 0, 1, pid),
                (_RETURN, 0, 0, _RET_ALLOW),
                (_RETURN, 0, 0, _RET_EPERM),
            )
        else:
            check = ((_RETURN, 0, 0, _RET_ALLOW),)
        program.append((_EQUAL, 0, len(check), numbers[column]))
        program.extend(check)
    program.append((_RETURN, 0, 0, _RET_EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
