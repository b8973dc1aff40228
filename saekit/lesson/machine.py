"""What this computer offers: threads, memory, versions, a place to write; and what to do where something is missing."""

import os
import platform
import sysconfig
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container: v2, v1
NEEDED_MB = 1_200


class Row(NamedTuple):
    """One line of the self-check. advice: empty where all is well."""

    what: str
    found: str
    advice: str = ""


def memory_limit() -> int:
    """Bytes this process may use: the container's limit, or the machine's memory where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    told = [Path(path).read_text().strip() for path in LIMITS if Path(path).is_file()]
    return min([machine, *(int(words) for words in told if words.isdigit())])


def memory_used() -> int:
    """Bytes this process holds now; where the system does not say, the most it ever held."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmRSS:")[1].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, the only other system we run on


def memory() -> str:
    """ "412 MB of 2 048 MB"."""
    return f"{memory_used() >> 20:,} MB of {memory_limit() >> 20:,} MB".replace(",", "\u202f")


def choose_threads(work: Callable[[], Any]) -> int:
    """Set torch to one thread where all it has take half as long again for `work`; returns the number.

    On a machine shared with others many threads wait for one another and can be ten times slower than one. Where the
    difference is small, all are kept: `sk.train` measures for itself, and large products gain more than small ones.
    """
    many = torch.get_num_threads()
    took = {}
    for threads in (1, many):
        torch.set_num_threads(threads)
        took[threads] = min(_seconds(work) for _ in range(2))
    best = 1 if took[many] > 1.5 * took[1] else many
    torch.set_num_threads(best)
    return best


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def self_check(home: Path, online: bool) -> list[Row]:
    """A row for each thing the notebooks rely on."""
    free = memory_limit() - memory_used() >> 20
    roomy = "" if free > NEEDED_MB else "Shut down the kernels of other notebooks: Kernel > Shut Down All Kernels."
    library = Path(sysconfig.get_path("stdlib"), "json", "__init__.py").is_file()
    no_library = "Use a Python with its library sources: python.org, conda, uv, or apt install python3-full."
    return [
        Row("Python", platform.python_version()),
        Row("torch", torch.__version__),
        Row("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        Row("memory", memory(), roomy),
        _widgets(),
        Row("library text", "found" if library else "missing", "" if library else no_library),
        Row("network", "online" if online else "offline, which is all this course needs"),
        Row("write access", str(home), _cannot_write(home)),
    ]


def _widgets() -> Row:
    found = f"anywidget {version('anywidget')}, ipywidgets {version('ipywidgets')}"
    from IPython.core.getipython import get_ipython

    live = getattr(get_ipython(), "kernel", None) is not None
    return Row("widgets", found, "" if live else "Open the notebook in JupyterLab: `make lab`.")


def _cannot_write(home: Path) -> str:
    try:
        home.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        return f"{error.strerror}. Set SAEKIT_HOME to a folder that you can write to, and restart the kernel."
    return ""
