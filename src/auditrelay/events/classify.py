"""
What an event means to a SIEM: tables of object kinds and verbs, and their ECS and CIM terms.

A vendor's module gives each event a kind and a verb; everything else is derived from the two here.
ECS is 9.4.0 (https://www.elastic.co/docs/reference/ecs/ecs-allowed-values-event-category), CIM is
Splunk's Change, Authentication and Data Access data models.
"""

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from functools import lru_cache
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from auditrelay.events import Outcome

CimModel = Literal["Change", "Authentication", "Data_Access"]


class Kind(NamedTuple):
    """
    A kind of object: its ECS categories, the ECS type that it adds, and its CIM terms.

    The target of an event is of this kind; that of an *account* is a person. A *part* of an account
    has the person as its target too: to create or to delete one is to change the account.
    """

    categories: tuple[str, ...]
    extra_type: str | None
    object_category: str
    change_type: str
    account: bool = False
    part: bool = False


class Verb(NamedTuple):
    """An operation: its ECS type and its CIM action, if any."""

    ecs_type: str | None
    cim_action: str | None


def _configures(change_type: str, *names: str) -> dict[str, Kind]:
    return {name: Kind(("configuration",), None, name, change_type) for name in names}


KINDS: dict[str, Kind] = {
    "user": Kind(("iam",), "user", "user", "AAA", account=True),
    "member": Kind(("iam",), "user", "user", "AAA", account=True),
    "end_user": Kind(("iam",), "user", "user", "AAA", account=True),
    "credential": Kind(("iam",), "user", "user", "AAA", account=True, part=True),
    "group": Kind(("iam",), "group", "group", "AAA"),
    "role": Kind(("iam",), "admin", "role", "AAA"),
    "scope_set": Kind(("iam",), "admin", "scope_set", "AAA"),
    "permission": Kind(("iam",), "admin", "permission", "AAA"),
    "api_key": Kind(("iam",), "admin", "api_key", "AAA"),
    "provider_key": Kind(("iam", "configuration"), "admin", "provider_key", "AAA"),
    "sso": Kind(("iam", "configuration"), "admin", "sso", "AAA"),
    "session": Kind(("authentication", "session"), None, "session", "AAA"),
    **_configures("settings", "organization", "project", "settings", "cache"),
    "security_policy": Kind(("configuration",), None, "policy", "policy"),
    "security_incident": Kind(("configuration",), None, "incident", "policy"),
    **_configures("billing", "billing", "budget", "rate_plan"),
    **_configures("integration", "webhook", "integration"),
    # knowledge_base is not "file": CIM's All_Changes excludes the category file.
    **_configures("application", "agent", "prompt", "pathway", "knowledge_base"),
    **_configures("application", "scenario", "metric", "cron_job"),
    "run": Kind(("api",), None, "run", "execution"),
    "memory": Kind(("database",), None, "memory", "data"),
    "export": Kind(("database",), None, "export", "data"),
    "secret": Kind(("database",), None, "secret", "data"),
    # A file to ECS, which means by it what is kept elsewhere as well; not to CIM, as above.
    "document": Kind(("file",), None, "document", "data"),
    **_configures("data", "repository", "conversation"),
    "device": Kind(("host",), None, "device", "device"),
    **_configures("audit", "audit_log"),
    **_configures("other", "other"),
}

VERBS: dict[str, Verb] = {
    "create": Verb("creation", "created"),
    "read": Verb("access", "read"),
    "update": Verb("change", "modified"),
    "delete": Verb("deletion", "deleted"),
    "enable": Verb("change", "modified"),
    "disable": Verb("change", "modified"),
    "activate": Verb("change", "modified"),
    "deactivate": Verb("change", "modified"),
    "publish": Verb("change", "modified"),
    "deploy": Verb("change", "modified"),
    "version_publish": Verb("change", "modified"),
    "restore": Verb("change", "modified"),
    "replace": Verb("change", "modified"),
    "configure": Verb("change", "modified"),
    "rotate": Verb("change", "modified"),
    "revoke": Verb("deletion", "deleted"),
    "review": Verb("change", "modified"),
    "connect": Verb("creation", "created"),
    "disconnect": Verb("deletion", "deleted"),
    "purchase": Verb("change", "modified"),
    "invite": Verb("change", "modified"),  # the account does not exist yet
    "join": Verb("change", "created"),
    "leave": Verb("change", "deleted"),
    "member_add": Verb("change", "modified"),
    "member_remove": Verb("change", "modified"),
    "role_change": Verb("change", "modified"),
    "permission_change": Verb("change", "acl_modified"),
    "block": Verb("change", "modified"),
    "unblock": Verb("change", "modified"),
    "execute": Verb("start", "started"),
    "export": Verb("access", "downloaded"),
    "login": Verb("start", None),
    "login_failed": Verb("start", None),
    "logout": Verb("end", "logoff"),
    "impersonate": Verb("start", None),
    "other": Verb(None, None),
}

MEMBERSHIPS: Final = frozenset(("member_add", "member_remove"))
"""
An account is added to a group, or removed from it; or a role, a document, a conversation.

The kind is that of the target: ``group`` if that is the group, ``user`` if it is the person, and
then the privilege of the event is the group's name.
"""

CHANGES: Final = frozenset(
    verb for verb, its in VERBS.items() if its.ecs_type in ("creation", "change", "deletion")
) - {"review"}
"""The verbs that change something."""

_EXPECTED_TYPES: dict[str, frozenset[str]] = {
    "api": frozenset(
        (
            "access",
            "admin",
            "allowed",
            "change",
            "creation",
            "deletion",
            "denied",
            "end",
            "info",
            "start",
            "user",
        )
    ),
    "authentication": frozenset(("start", "end", "info")),
    "configuration": frozenset(("access", "change", "creation", "deletion", "info")),
    "database": frozenset(("access", "change", "info", "error")),
    "file": frozenset(("access", "change", "creation", "deletion", "info")),
    "host": frozenset(("access", "change", "end", "info", "start")),
    "iam": frozenset(("admin", "change", "creation", "deletion", "group", "info", "user")),
    "session": frozenset(("start", "end", "info")),
}


def _each(kinds: tuple[str, ...], verbs: Iterable[str]) -> set[str]:
    return {f"{kind}/{verb}" for kind in kinds for verb in verbs}


_SHARED = ("secret", "document", "repository", "conversation")
"""Kinds of content that others may be given access to."""

_RISKS: dict[str, AbstractSet[str]] = {
    "credential_change": frozenset(
        (
            "api_key/create",
            "api_key/update",
            "api_key/rotate",
            "api_key/revoke",
            "api_key/delete",
            "provider_key/*",
        )
    )
    | _each(("credential",), CHANGES),
    # Not that an account was added to a group: that is frequent, and few groups give rights.
    "privilege_change": frozenset(("scope_set/*", "permission/*", "role/*"))
    | _each(("member", "user", "group"), ("role_change", "permission_change"))
    | {"organization/role_change"},
    "sso_change": frozenset(("sso/*",)),
    "audit_tamper": frozenset(("audit_log/delete",)),
    "data_export": _each(("export", "audit_log", *_SHARED), ("export",)),
    "security_control_change": frozenset(("security_policy/*",)),
    "egress_path_change": frozenset(
        (
            "webhook/create",
            "webhook/update",
            "webhook/activate",
            "webhook/configure",
            "integration/*",
        )
    ),
    "ai_context_change": frozenset(("knowledge_base/*", "prompt/*", "memory/*")),
    "prod_change": frozenset(("pathway/publish", "prompt/deploy", "agent/deploy")),
    "sharing_change": _each(_SHARED, ("permission_change", "role_change", *MEMBERSHIPS)),
    "impersonation": frozenset(("*/impersonate",)),
}


class Meaning(NamedTuple):
    """Everything that follows from a kind and a verb."""

    categories: list[str]
    types: list[str]
    risks: list[str]
    risks_of_failure: list[str]
    account: bool
    cim_model: CimModel
    cim_action: str | None
    """None where the model has no action, and for Authentication, whose action is the outcome."""
    change_type: str
    object_category: str

    def risks_if(self, outcome: Outcome | None) -> list[str]:
        """Return the risks; if the *outcome* is failure, none that says that something changed."""
        return self.risks_of_failure if outcome == "failure" else self.risks


def settled(kind: str, verb: str, outcome: Outcome | None) -> tuple[str, Outcome | None]:
    """
    Return *verb* and *outcome* as every event has them, whichever of the two a vendor tells by.

    A sign-in that failed has a verb of its own, and what has that verb has failed.
    """
    if kind == "session" and (verb == "login_failed" or (verb == "login" and outcome == "failure")):
        return "login_failed", "failure"
    return verb, outcome


def ecs_types(categories: tuple[str, ...], wanted: list[str]) -> list[str]:
    """
    Map *wanted* to types that ECS allows for at least one of *categories*.

    A creation or deletion becomes a change where those are not allowed; that and the other
    activities become ``info``, and types of the affected object are omitted. Total: no pair of kind
    and verb yields a document that violates ECS.
    """
    expected = frozenset[str]().union(*(_EXPECTED_TYPES[category] for category in categories))
    types: list[str] = []
    for name in wanted:
        fit: str | None = name
        if name not in expected:
            if name in ("creation", "deletion"):
                fit = "change" if "change" in expected else "info"
            else:
                fit = None if name in ("admin", "group", "user") else "info"
        if fit is not None and fit not in types:
            types.append(fit)
    return types


def _meaning(kind_name: str, verb_name: str) -> Meaning:
    kind, verb = KINDS[kind_name], VERBS[verb_name]
    ecs_type, cim_action = verb.ecs_type, verb.cim_action
    if kind.part and ecs_type in ("creation", "deletion"):
        ecs_type, cim_action = "change", "modified"
    model: CimModel = "Change"
    if verb_name == "impersonate" or (
        kind_name == "session" and verb_name in ("login", "login_failed")
    ):
        model = "Authentication"
    elif verb_name == "export":
        model = "Data_Access"
    # Joining and leaving affect the organisation, as a group, as well as the member.
    joining = kind_name == "member" and verb_name in ("join", "leave")
    group = "group" if joining or verb_name in MEMBERSHIPS else None
    touched = (kind.extra_type, group, ecs_type)
    risks = [
        risk
        for risk, pairs in _RISKS.items()
        if not pairs.isdisjoint((f"{kind_name}/{verb_name}", f"{kind_name}/*", f"*/{verb_name}"))
    ]
    return Meaning(
        categories=list(kind.categories),
        types=ecs_types(kind.categories, [name for name in touched if name]),
        risks=risks,
        risks_of_failure=[risk for risk in risks if not risk.endswith("_change")],
        account=kind.account,
        cim_model=model,
        cim_action=cim_action,
        change_type=kind.change_type,
        object_category=kind.object_category,
    )


class _Meanings(dict[tuple[str, str], Meaning]):
    """The meaning of every pair, once it was asked for: an unknown kind or verb is ``other``."""

    def __missing__(self, pair: tuple[str, str]) -> Meaning:
        kind, verb = pair
        known = (kind if kind in KINDS else "other", verb if verb in VERBS else "other")
        if known != pair:
            return self[known]
        meaning = self[pair] = _meaning(kind, verb)
        return meaning


MEANINGS = _Meanings()

# The lexicon: words by which to guess the meaning of an action that is in no table.

_VERB_WORDS: dict[str, str] = {
    word: verb
    for verb, words in {
        "create": "add added create created creates creation generate generated insert inserted "
        "issue issued new provision provisioned register registered upload uploaded",
        "read": "access accessed get list listed query read search searched view viewed",
        "update": "change changed changes edit edited edits modified modifies modify move moved "
        "patch patched rename renamed set update updated updates",
        "delete": "delete deleted deletes deletion destroy destroyed purge purged remove removed "
        "removes",
        "revoke": "expire expired revoke revoked",
        "enable": "enable enabled enforced",
        "disable": "disable disabled",
        "activate": "activate activated",
        "deactivate": "deactivate deactivated",
        "publish": "publish published",
        "deploy": "deploy deployed",
        "restore": "restore restored rollback",
        "replace": "replace replaced",
        "configure": "configure configured",
        "rotate": "rotate rotated",
        "review": "review reviewed",
        "connect": "connect connected",
        "disconnect": "disconnect disconnected",
        "purchase": "purchase purchased topup",
        "permission_change": "grant granted",
        "block": "block blocked",
        "unblock": "unblock unblocked",
        "execute": "execute executed execution run start started trigger triggered",
        "export": "download downloaded export exported",
    }.items()
    for word in words.split()
}
"""
No words for signing in or out, as oneself or as another, nor for coming into a group and leaving
it: those are never guessed.
"""

_KIND_WORDS: dict[str, str] = {
    "api key": "api_key",
    "apikey": "api_key",
    "access token": "api_key",
    "scope set": "scope_set",
    "permission": "permission",
    "permissions": "permission",
    "role": "role",
    "policy": "security_policy",
    "sso": "sso",
    "saml": "sso",
    "webhook": "webhook",
    "integration": "integration",
    "project": "project",
    "workspace": "project",
    "organization": "organization",
    "org": "organization",
    "tenant": "organization",
    "settings": "settings",
    "setting": "settings",
    "agent": "agent",
    "assistant": "agent",
    "prompt": "prompt",
    "pathway": "pathway",
    "kb": "knowledge_base",
    "knowledge base": "knowledge_base",
    "memory": "memory",
    "document": "document",
    "repository": "repository",
    "repo": "repository",
    "conversation": "conversation",
    "device": "device",
    "audit log": "audit_log",
}
"""
No accounts, groups or sessions: those are never guessed. Nor secrets: the word means keys as well.
"""

_FAILURE_WORDS = frozenset(
    ("denied", "deny", "error", "failed", "failure", "forbidden", "rejected", "unauthorized")
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


class Guess(NamedTuple):
    """The guessed meaning of an action; *verb* is None if no known verb is in it."""

    kind: str
    verb: str | None
    failed: bool


@lru_cache(maxsize=1024)
def guess(action: str) -> Guess:
    """
    Guess what a vendor's unknown *action* means, cautiously.

    Never an account, a group or a sign-in, and never a success: words alone read "user added to
    usergroup" as a user that was created. Callers mark the event ``heuristic_verb``.
    """
    words = [word.lower() for word in _WORD.findall(action[:256])]
    pairs = [f"{first} {second}" for first, second in pairwise(words)]
    # In most vendors' actions the verb comes last.
    verbs = (_VERB_WORDS[word] for word in reversed(words) if word in _VERB_WORDS)
    kinds = (_KIND_WORDS[name] for name in (*pairs, *words) if name in _KIND_WORDS)
    return Guess(next(kinds, "other"), next(verbs, None), not _FAILURE_WORDS.isdisjoint(words))
