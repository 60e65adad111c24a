"""
OCSF 1.8.0 (https://schema.ocsf.io/1.8.0/): the class and activity of each kind and verb.

Version 1.9 replaces Account Change and User Access Management by other classes: raising
:data:`VERSION` to it requires a change of the tables here.
"""

from typing import Any, NamedTuple

from auditrelay.events.classify import CHANGES

VERSION = "1.8.0"

BASE_EVENT = 0
EVENT_LOG_ACTIVITY = 1008
ACCOUNT_CHANGE = 3001
AUTHENTICATION = 3002
ENTITY_MANAGEMENT = 3004
USER_ACCESS = 3005
GROUP_MANAGEMENT = 3006
WEB_RESOURCES = 6001

OTHER = 99
"""The activity whose ``activity_name`` is the vendor's own word."""


class _Class(NamedTuple):
    name: str
    category_uid: int
    category_name: str
    activities: dict[int, str]


def _iam(name: str, activities: dict[int, str]) -> _Class:
    return _Class(name, 3, "Identity & Access Management", activities)


_CLASSES: dict[int, _Class] = {
    BASE_EVENT: _Class("Base Event", 0, "Uncategorized", {}),
    EVENT_LOG_ACTIVITY: _Class(
        "Event Log Activity", 1, "System Activity", {2: "Delete", 3: "Export"}
    ),
    ACCOUNT_CHANGE: _iam("Account Change", {1: "Create", 2: "Enable", 5: "Disable", 6: "Delete"}),
    AUTHENTICATION: _iam("Authentication", {1: "Logon", 2: "Logoff", 7: "Account Switch"}),
    ENTITY_MANAGEMENT: _iam(
        "Entity Management",
        {
            1: "Create",
            2: "Read",
            3: "Update",
            4: "Delete",
            6: "Enroll",
            7: "Unenroll",
            8: "Enable",
            9: "Disable",
            10: "Activate",
            11: "Deactivate",
            12: "Suspend",
            13: "Resume",
        },
    ),
    USER_ACCESS: _iam("User Access Management", {1: "Assign Privileges"}),
    GROUP_MANAGEMENT: _iam(
        "Group Management", {3: "Add User", 4: "Remove User", 5: "Delete", 6: "Create"}
    ),
    WEB_RESOURCES: _Class("Web Resources Activity", 6, "Application Activity", {7: "Export"}),
}
"""The classes in use, each with its activities in use."""

_PEOPLE = ("user", "member", "end_user")
"""Kinds whose target is a person."""

EXCEPTIONS: dict[tuple[str, str], tuple[int, int]] = {
    ("session", "login"): (AUTHENTICATION, 1),
    ("session", "login_failed"): (AUTHENTICATION, 1),
    ("session", "logout"): (AUTHENTICATION, 2),
    **{(kind, "impersonate"): (AUTHENTICATION, 7) for kind in ("session", *_PEOPLE)},
    ("member", "join"): (GROUP_MANAGEMENT, 3),
    ("member", "leave"): (GROUP_MANAGEMENT, 4),
    **{(kind, "member_add"): (GROUP_MANAGEMENT, 3) for kind in ("group", *_PEOPLE)},
    **{(kind, "member_remove"): (GROUP_MANAGEMENT, 4) for kind in ("group", *_PEOPLE)},
    ("group", "create"): (GROUP_MANAGEMENT, 6),
    ("group", "delete"): (GROUP_MANAGEMENT, 5),
    ("member", "role_change"): (USER_ACCESS, 1),
    ("user", "role_change"): (USER_ACCESS, 1),
    ("user", "create"): (ACCOUNT_CHANGE, 1),
    ("user", "update"): (ACCOUNT_CHANGE, OTHER),  # the class has no activity for it
    ("user", "delete"): (ACCOUNT_CHANGE, 6),
    ("user", "enable"): (ACCOUNT_CHANGE, 2),
    ("user", "disable"): (ACCOUNT_CHANGE, 5),
    ("user", "block"): (ACCOUNT_CHANGE, 5),
    ("user", "unblock"): (ACCOUNT_CHANGE, 2),
    ("end_user", "create"): (ACCOUNT_CHANGE, 1),
    ("end_user", "update"): (ACCOUNT_CHANGE, OTHER),
    ("end_user", "delete"): (ACCOUNT_CHANGE, 6),
    ("end_user", "block"): (ACCOUNT_CHANGE, 5),
    ("end_user", "unblock"): (ACCOUNT_CHANGE, 2),
    # It has activities for passwords and for factors; the kind does not tell which of them it is.
    **{("credential", verb): (ACCOUNT_CHANGE, OTHER) for verb in sorted(CHANGES)},
    ("export", "export"): (WEB_RESOURCES, 7),
    ("document", "export"): (WEB_RESOURCES, 7),
    ("repository", "export"): (WEB_RESOURCES, 7),
    ("conversation", "export"): (WEB_RESOURCES, 7),
    ("audit_log", "export"): (EVENT_LOG_ACTIVITY, 3),
    ("audit_log", "delete"): (EVENT_LOG_ACTIVITY, 2),
    ("audit_log", "read"): (EVENT_LOG_ACTIVITY, OTHER),
    ("audit_log", "other"): (EVENT_LOG_ACTIVITY, OTHER),  # such as a declared gap
}
"""Kinds and verbs that have a class of their own, and its activity."""

ACTIVITIES: dict[str, int] = {
    "create": 1,
    "read": 2,
    "update": 3,
    "version_publish": 3,
    "restore": 3,
    "replace": 3,
    "configure": 3,
    "rotate": 3,
    "review": 3,
    "purchase": 3,
    "role_change": 3,
    "permission_change": 3,
    "member_add": 3,
    "member_remove": 3,
    "delete": 4,
    "revoke": 4,
    "connect": 6,
    "invite": 6,
    "join": 6,
    "disconnect": 7,
    "leave": 7,
    "enable": 8,
    "disable": 9,
    "activate": 10,
    "publish": 10,
    "deploy": 10,
    "deactivate": 11,
    "block": 12,
    "unblock": 13,
}
"""Activities of Entity Management; any other verb is :data:`OTHER`."""

ENTITY_TYPES: dict[str, tuple[int, str, str | None]] = {
    "user": (2, "User", "user"),
    "member": (2, "User", "user"),
    "end_user": (2, "User", "user"),
    "group": (3, "Group", "group"),
    "organization": (4, "Organization", "org"),
    "security_policy": (5, "Policy", "policy"),
    "device": (1, "Device", None),  # its attribute requires the type of device
    "credential": (OTHER, "credential", "user"),
}
"""Kinds with a type or an attribute in ``managed_entity``; others have only a name there."""


def _start(class_uid: int, activity_id: int) -> dict[str, Any]:
    """Return the attributes that events of one class and activity share."""
    ocsf_class = _CLASSES[class_uid]
    named = ocsf_class.activities.get(activity_id, "Other")
    return {
        "class_uid": class_uid,
        "class_name": ocsf_class.name,
        "category_uid": ocsf_class.category_uid,
        "category_name": ocsf_class.category_name,
        "activity_id": activity_id,
        "activity_name": named,
        "type_uid": class_uid * 100 + activity_id,
        "type_name": f"{ocsf_class.name}: {named}",
        "severity_id": 1,  # severity is for detections to decide
        "severity": "Informational",
    }


TEMPLATES: dict[tuple[int, int], dict[str, Any]] = {
    (class_uid, activity_id): _start(class_uid, activity_id)
    for class_uid, ocsf_class in _CLASSES.items()
    for activity_id in (*ocsf_class.activities, OTHER)
}
"""The constant attributes of each class and activity."""
