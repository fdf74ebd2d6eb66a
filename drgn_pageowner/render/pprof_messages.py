# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The messages of pprof's ``profile.proto`` (package ``perftools.profiles``), as classes of protobuf.

They are built from the definition of the format: field numbers and types.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from drgn_pageowner.extras import extra

__all__ = ("profile_message",)

# Message -> field -> (number, type); ``*`` marks repeated fields.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Profile": {
        "sample_type": (1, "*ValueType"),
        "sample": (2, "*Sample"),
        "mapping": (3, "*Mapping"),
        "location": (4, "*Location"),
        "function": (5, "*Function"),
        "string_table": (6, "*string"),
        "time_nanos": (9, "int64"),
        "comment": (13, "*int64"),
        "default_sample_type": (14, "int64"),
    },
    "ValueType": {"type": (1, "int64"), "unit": (2, "int64")},
    "Sample": {"location_id": (1, "*uint64"), "value": (2, "*int64"), "label": (3, "*Label")},
    "Label": {
        "key": (1, "int64"),
        "str": (2, "int64"),
        "num": (3, "int64"),
        "num_unit": (4, "int64"),
    },
    "Mapping": {
        "id": (1, "uint64"),
        "memory_start": (2, "uint64"),
        "memory_limit": (3, "uint64"),
        "file_offset": (4, "uint64"),
        "filename": (5, "int64"),
        "build_id": (6, "int64"),
        "has_functions": (7, "bool"),
        "has_filenames": (8, "bool"),
        "has_line_numbers": (9, "bool"),
        "has_inline_frames": (10, "bool"),
    },
    "Location": {
        "id": (1, "uint64"),
        "mapping_id": (2, "uint64"),
        "address": (3, "uint64"),
        "line": (4, "*Line"),
    },
    "Line": {"function_id": (1, "uint64"), "line": (2, "int64")},
    "Function": {
        "id": (1, "uint64"),
        "name": (2, "int64"),
        "system_name": (3, "int64"),
        "filename": (4, "int64"),
        "start_line": (5, "int64"),
    },
}
_PACKAGE = "perftools.profiles"


@cache
def profile_message() -> Any:
    """
    Return the class of the message ``Profile``.

    :raises PageOwnerError: if protobuf is not installed
    """
    descriptors = extra("google.protobuf.descriptor_pb2", "pprof", "pprof")
    pool = extra("google.protobuf.descriptor_pool", "pprof", "pprof").DescriptorPool()
    field_type = descriptors.FieldDescriptorProto
    file = descriptors.FileDescriptorProto(name="profile.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            several, kind = kind.startswith("*"), kind.lstrip("*")
            added = message.field.add(name=field, number=number)
            added.label = field_type.LABEL_REPEATED if several else field_type.LABEL_OPTIONAL
            if kind in _MESSAGES:
                added.type, added.type_name = field_type.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                added.type = getattr(field_type, f"TYPE_{kind.upper()}")
    pool.Add(file)
    factory = extra("google.protobuf.message_factory", "pprof", "pprof")
    return factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Profile"))
