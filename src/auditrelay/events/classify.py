"""
What an event means to a SIEM: tables of object kinds and verbs, and their ECS and CIM terms.

A vendor's module gives each event a kind and a verb; everything else is derived from the two here.
ECS is 9.4.0 (https://www.elastic.co/docs/reference/ecs/ecs-allowed-values-event-category), CIM is
Splunk's Change, Authentication and Data Access data models.
"""

import re
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

CimModel = Literal["Change", "Authentication", "Data_Access"]


class Kind(NamedTuple):
    """A kind of object: its ECS categories, the ECS type that it adds, and its CIM terms."""

    categories: tuple[str, ...]
    extra_type: str | None
    object_category: str
    change_type: str
    account: bool = False


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
    "role_change": Verb("change", "modified"),
    "permission_change": Verb("change", "acl_modified"),
    "block": Verb("change", "modified"),
    "unblock": Verb("change", "modified"),
    "execute": Verb("start", "started"),
    "export": Verb("access", "downloaded"),
    "login": Verb("start", None),
    "login_failed": Verb("start", None),
    "logout": Verb("end", "logoff"),
    "other": Verb(None, None),
}

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
    "iam": frozenset(("admin", "change", "creation", "deletion", "group", "info", "user")),
    "session": frozenset(("start", "end", "info")),
}

_RISKS: dict[str, frozenset[str]] = {
    "credential_change": frozenset(
        (
            "api_key/create",
            "api_key/update",
            "api_key/rotate",
            "api_key/revoke",
            "api_key/delete",
            "provider_key/*",
        )
    ),
    "privilege_change": frozenset(
        ("member/role_change", "user/role_change", "scope_set/*", "permission/*", "role/*")
    ),
    "sso_change": frozenset(("sso/*",)),
    "audit_tamper": frozenset(("audit_log/delete",)),
    "data_export": frozenset(("export/export", "audit_log/export")),
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
}


class Meaning(NamedTuple):
    """Everything that follows from a kind and a verb."""

    categories: list[str]
    types: list[str]
    risks: list[str]
    account: bool
    cim_model: CimModel
    cim_action: str | None
    """None where the model has no action, and for Authentication, whose action is the outcome."""
    change_type: str
    object_category: str


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
    model: CimModel = "Change"
    if kind_name == "session" and verb_name in ("login", "login_failed"):
        model = "Authentication"
    elif verb_name == "export":
        model = "Data_Access"
    # Joining and leaving affect the organisation, as a group, as well as the member.
    joining = kind_name == "member" and verb_name in ("join", "leave")
    touched = (kind.extra_type, "group" if joining else None, verb.ecs_type)
    risks = [
        risk
        for risk, pairs in _RISKS.items()
        if f"{kind_name}/{verb_name}" in pairs or f"{kind_name}/*" in pairs
    ]
    return Meaning(
        categories=list(kind.categories),
        types=ecs_types(kind.categories, [name for name in touched if name]),
        risks=risks,
        account=kind.account,
        cim_model=model,
        cim_action=verb.cim_action,
        change_type=kind.change_type,
        object_category=kind.object_category,
    )


class _Meanings(dict[tuple[str, str], Meaning]):
    """The meaning of every pair; an unknown kind or verb counts as ``other``."""

    def __missing__(self, pair: tuple[str, str]) -> Meaning:
        kind, verb = pair
        known = (kind if kind in KINDS else "other", verb if verb in VERBS else "other")
        return self[known]


MEANINGS = _Meanings({(kind, verb): _meaning(kind, verb) for kind in KINDS for verb in VERBS})

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
"""No words for signing in or out, or for joining and leaving: those are never guessed."""

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
    "audit log": "audit_log",
}
"""No accounts, groups or sessions: those are never guessed."""

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
