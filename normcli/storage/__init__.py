"""Access to bytes: local paths by plain system calls, written atomically; servers by fsspec.

A path with "://" in it is remote everywhere: `remote` opens it by fsspec, with retries.
"""

from normcli.storage.atomic import (
    atomic_write,
    atomic_write_buffers,
    check_outputs,
    jsonl_writer,
    make_work_folder,
    raise_output_error,
    remove_work_folder,
    require_writable,
    sync_folders,
    text_writer,
    write_all,
    write_file,
)
from normcli.storage.files import (
    file_kind,
    fingerprint,
    is_remote,
    path_fields,
    read,
    read_error,
    read_path_list,
    read_stream,
    version,
)

__all__ = [
    "atomic_write",
    "atomic_write_buffers",
    "check_outputs",
    "file_kind",
    "fingerprint",
    "is_remote",
    "jsonl_writer",
    "make_work_folder",
    "path_fields",
    "raise_output_error",
    "read",
    "read_error",
    "read_path_list",
    "read_stream",
    "remove_work_folder",
    "require_writable",
    "sync_folders",
    "text_writer",
    "version",
    "write_all",
    "write_file",
]
