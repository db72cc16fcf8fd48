"""Folders and sizes."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

_MIB = 1024**2
_LARGE_BYTES = 256 * _MIB
_LONGEST_SILENCE_S = 55  # usual proxies cut a connection that is silent for 60 s
_MEMORY_TYPES = {"tmpfs", "ramfs"}
_NETWORK_TYPES = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph", "glusterfs"}


@register
def check_private_backends(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.E003: an entry without a port would allow nothing, silently."""
    wrong = [entry for entry in settings.GATEWAY_PRIVATE_BACKENDS if not entry.rpartition(":")[2].isdecimal()]
    if wrong:
        return [Error(f"GATEWAY_PRIVATE_BACKENDS needs host:port, not {wrong[0]!r}.", id="gateway_site.E003")]
    return []


@register
def check_absolute_paths(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.E008: a relative path is another folder for each process that starts elsewhere."""
    paths = {
        "GATEWAY_SPOOL_DIR": settings.GATEWAY_SPOOL_DIR,
        "GATEWAY_CREDENTIALS_DIR": settings.GATEWAY_CREDENTIALS_DIR,
        "GATEWAY_STATIC_ROOT": Path(settings.STATIC_ROOT or "/"),
    }
    return [
        Error(f"{name} must be an absolute path.", id="gateway_site.E008")
        for name, path in paths.items()
        if not path.is_absolute()
    ]


@register
def check_spool_place(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.W004 to W006. Only warnings, for `migrate` may run where there is no spool; `serve` and `ship`
    themselves do not start without one."""
    folder = settings.GATEWAY_SPOOL_DIR
    place = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return [Warning("GATEWAY_SPOOL_DIR cannot be written to.", id="gateway_site.W004")]
    found: list[CheckMessage] = []
    kind = file_system_type(place)
    if kind in _MEMORY_TYPES:
        message = f"GATEWAY_SPOOL_DIR is in memory ({kind}): what waits there is lost when the host restarts."
        found.append(Warning(message, id="gateway_site.W005"))
    if kind in _NETWORK_TYPES:
        message = f"GATEWAY_SPOOL_DIR is on the network ({kind}): its locks do not work there."
        found.append(Warning(message, id="gateway_site.W005"))
    if shutil.disk_usage(place).total < settings.GATEWAY_SPOOL_MAX_BYTES:
        message = "GATEWAY_SPOOL_MAX_BYTES is more than the whole disk of GATEWAY_SPOOL_DIR has."
        found.append(Warning(message, id="gateway_site.W006"))
    return found


@register
def check_sizes(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.W007: bodies and answers are held in memory whole, each as often as there are calls."""
    sizes = ("GATEWAY_MAX_BODY_BYTES", "GATEWAY_MAX_ANSWER_BYTES")
    return [
        Warning(
            f"{name} is more than {_LARGE_BYTES // _MIB} MiB, of memory, for each call.",
            id="gateway_site.W007",
        )
        for name in sizes
        if getattr(settings, name) > _LARGE_BYTES
    ]


@register
def check_keepalive(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.W008: a keep-alive that comes after a proxy has cut the silent stream."""
    if settings.GATEWAY_KEEPALIVE_S <= _LONGEST_SILENCE_S:
        return []
    message = f"GATEWAY_KEEPALIVE_S is more than {_LONGEST_SILENCE_S}: proxies cut connections silent for 60 seconds."
    return [Warning(message, id="gateway_site.W008")]


@register
def check_static_root(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.W009: pages without style and script."""
    root = settings.STATIC_ROOT
    if root is None or (Path(root) / "css" / "site.css").exists():
        return []
    hint = "Run manage.py collectstatic, or unset GATEWAY_STATIC_ROOT."
    return [Warning("GATEWAY_STATIC_ROOT holds no static files.", hint=hint, id="gateway_site.W009")]


def file_system_type(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Such as ext4 or tmpfs; empty where the system does not tell."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    above = {str(parent) for parent in (path.resolve(), *path.resolve().parents)}
    covering = [(len(fields[1]), fields[2]) for fields in lines if fields[1] in above]
    return max(covering, default=(0, ""), key=lambda found: found[0])[1]
