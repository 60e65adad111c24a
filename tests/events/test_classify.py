"""The tables of kinds and verbs, and what follows from them."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.events import AuditEvent, Outcome
from auditrelay.events.classify import KINDS, MEANINGS, VERBS, Meaning, guess, settled
from auditrelay.events.vendors import Action, bland

NEVER_GUESSED = {"user", "member", "end_user", "credential", "group", "session", "secret"}
SIGN_INS = {"login", "login_failed", "logout", "join", "leave", "role_change", "invite"} | {
    "impersonate",
    "member_add",
    "member_remove",
}


def each_meaning() -> list[Meaning]:
    return [MEANINGS[kind, verb] for kind in KINDS for verb in VERBS]


def test_there_are_40_kinds_and_36_verbs() -> None:
    assert (len(KINDS), len(VERBS)) == (40, 36)


@pytest.mark.parametrize(
    "row",
    """
    agent/create          configuration           creation           Change/created/agent
    api_key/delete        iam                     admin,deletion     Change/deleted/api_key credential_change
    run/execute           api                     start              Change/started/run
    session/login         authentication,session  start              Authentication/None/session
    session/logout        authentication,session  end                Change/logoff/session
    pathway/publish       configuration           change             Change/modified/pathway prod_change
    prompt/deploy         configuration           change             Change/modified/prompt ai_context_change,prod_change
    provider_key/rotate   iam,configuration       admin,change       Change/modified/provider_key credential_change
    member/join           iam                     user,group,change  Change/created/user
    member/role_change    iam                     user,change        Change/modified/user privilege_change
    memory/delete         database                change             Change/deleted/memory ai_context_change
    audit_log/delete      configuration           deletion           Change/deleted/audit_log audit_tamper
    audit_log/export      configuration           access             Data_Access/downloaded/audit_log data_export
    export/export         database                access             Data_Access/downloaded/export data_export
    webhook/create        configuration           creation           Change/created/webhook egress_path_change
    webhook/delete        configuration           deletion           Change/deleted/webhook
    session/create        authentication,session  info               Change/created/session
    credential/create     iam                     user,change        Change/modified/user credential_change
    credential/delete     iam                     user,change        Change/modified/user credential_change
    credential/disable    iam                     user,change        Change/modified/user credential_change
    credential/read       iam                     user,info          Change/read/user
    credential/review     iam                     user,change        Change/modified/user
    credential/other      iam                     user               Change/None/user
    secret/create         database                change             Change/created/secret
    secret/read           database                access             Change/read/secret
    secret/export         database                access             Data_Access/downloaded/secret data_export
    secret/permission_change      database        change             Change/acl_modified/secret sharing_change
    document/create       file                    creation           Change/created/document
    document/export       file                    access             Data_Access/downloaded/document data_export
    document/permission_change    file            change             Change/acl_modified/document sharing_change
    repository/delete     configuration           deletion           Change/deleted/repository
    repository/export     configuration           access             Data_Access/downloaded/repository data_export
    repository/member_add configuration           change             Change/modified/repository sharing_change
    conversation/permission_change configuration  change             Change/acl_modified/conversation sharing_change
    device/create         host                    change             Change/created/device
    device/block          host                    change             Change/modified/device
    group/member_add      iam                     group,change       Change/modified/group
    group/member_remove   iam                     group,change       Change/modified/group
    user/member_add       iam                     user,group,change  Change/modified/user
    role/member_add       iam                     admin,group,change Change/modified/role privilege_change
    organization/role_change      configuration   change             Change/modified/organization privilege_change
    session/impersonate   authentication,session  start              Authentication/None/session impersonation
    user/impersonate      iam                     user,info          Authentication/None/user impersonation
    other/other           configuration           -                  Change/None/other
    """.strip().splitlines(),  # noqa: E501  # a table
)
def test_a_kind_and_a_verb_determine_everything_else(row: str) -> None:
    pair, categories, types, splunk, *risks = row.split()
    kind, verb = pair.split("/")
    meaning = MEANINGS[kind, verb]
    assert ",".join(meaning.categories) == categories
    assert ",".join(meaning.types) == types.strip("-")
    assert f"{meaning.cim_model}/{meaning.cim_action}/{meaning.object_category}" == splunk
    assert ",".join(sorted(meaning.risks)) == "".join(risks)


def test_the_object_category_user_is_for_accounts_only_and_file_is_unused() -> None:
    for name, kind in KINDS.items():
        assert (kind.object_category == "user") == kind.account, name
        assert kind.object_category not in ("directory", "file", "registry")


def test_what_failed_has_no_risk_that_says_that_something_was_changed() -> None:
    risks = {risk for meaning in each_meaning() for risk in meaning.risks}
    kept = {risk for meaning in each_meaning() for risk in meaning.risks_if("failure")}
    assert {risk for risk in risks if not risk.endswith("_change")} == kept
    assert kept == {"audit_tamper", "data_export", "impersonation"}
    for meaning in each_meaning():
        assert meaning.risks == meaning.risks_if("unknown") == meaning.risks_if(None)


@pytest.mark.parametrize(
    ("pair", "outcome", "expected"),
    [
        ("session/login", "failure", ("login_failed", "failure")),
        ("session/login_failed", "unknown", ("login_failed", "failure")),
        ("session/login_failed", None, ("login_failed", "failure")),
        ("session/login", "success", ("login", "success")),
        ("session/login", "unknown", ("login", "unknown")),
        ("session/logout", "failure", ("logout", "failure")),
        ("user/login", "failure", ("login", "failure")),
    ],
)
def test_a_sign_in_that_failed_has_its_own_verb_and_outcome(
    pair: str, outcome: Outcome | None, expected: tuple[str, Outcome | None]
) -> None:
    kind, verb = pair.split("/")
    assert settled(kind, verb, outcome) == expected


@pytest.mark.parametrize(("verb", "outcome"), [("login", "failure"), ("login_failed", "unknown")])
def test_every_vendors_sign_in_that_failed_has_them(
    verb: str,
    outcome: Outcome,
    one: Callable[..., AuditEvent],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = Action("auth.sso_login", "auth", "session", verb, outcome)
    monkeypatch.setattr(bland, "_action", lambda _: failed)
    event = one({"id": "1", "event_type": "auth.sso_login"})
    assert (event.verb, event.outcome) == ("login_failed", "failure")


def test_a_kind_or_verb_of_a_later_version_counts_as_other() -> None:
    assert MEANINGS["hologram", "teleport"] == MEANINGS["other", "other"]
    assert MEANINGS["agent", "teleport"] == MEANINGS["agent", "other"]


@given(st.text(max_size=80) | st.sampled_from([f"{k}_{v}" for k in KINDS for v in VERBS]))
def test_a_guess_is_never_an_account_a_group_or_a_sign_in(action: str) -> None:
    guessed = guess(action)
    assert guessed.kind in KINDS.keys() - NEVER_GUESSED
    assert guessed.verb is None or guessed.verb in VERBS.keys() - SIGN_INS


@pytest.mark.parametrize(
    ("action", "kind", "verb", "failed"),
    [
        ("agent.created", "agent", "create", False),
        ("knowledge_base.purged", "knowledge_base", "delete", False),
        ("ApiKeyRotated", "api_key", "rotate", False),
        ("user_added_to_usergroup", "other", "create", False),
        ("user.password_updated", "other", "update", False),
        ("client_secret.rotated", "other", "rotate", False),
        ("repo.download_zip", "repository", "export", False),
        ("ImpersonationStarted", "other", "execute", False),
        ("auth.login_failed", "other", None, True),
        ("zzz", "other", None, False),
        ("", "other", None, False),
    ],
)
def test_words_are_guessed_cautiously(
    action: str,
    kind: str,
    verb: str | None,
    failed: bool,
) -> None:
    assert guess(action) == (kind, verb, failed)


@pytest.mark.parametrize(
    ("action", "operation", "thing", "expected"),
    [
        ("object", "create", "aiagent", ("aiagent.create", "agent", "create", "success", ())),
        (None, "update", "metric", ("metric.update", "metric", "update", "success", ())),
        ("object", "delete", "cron_job", ("cron_job.delete", "cron_job", "delete", "success", ())),
        ("run_scenarios", None, None, ("run_scenarios", "run", "execute", "success", ())),
        ("run_scenarios_text", None, "x", ("run_scenarios_text", "run", "execute", "success", ())),
        ("generate_scenarios", None, None,
         ("generate_scenarios", "scenario", "create", "success", ())),
        ("observability", None, None, ("observability", "other", "other", "success", ())),
        ("run_scenarios", "delete", None, ("run_scenarios", "run", "delete", "success", ())),
        ("object", "delete", "user",
         ("user.delete", "other", "delete", "success", ("unknown_action",))),
        ("teleport", None, None,
         ("teleport", "other", "other", "unknown", ("unknown_action",))),
        ("teleport", "delete", None,
         ("teleport", "other", "delete", "success", ("unknown_action",))),
        ("object", "purged", "aiagent",
         ("aiagent.purged", "agent", "delete", "unknown", ("unknown_action", "heuristic_verb"))),
        ("object", None, None, ("object", "other", "other", "unknown", ("unknown_action",))),
        (None, None, None, ("unknown", "other", "other", "unknown", ("unknown_action",))),
    ],
)  # fmt: skip
def test_the_action_of_cekura_is_in_three_fields(
    action: str | None,
    operation: str | None,
    thing: str | None,
    expected: tuple[str, str, str, str, tuple[str, ...]],
    one: Callable[..., AuditEvent],
) -> None:
    record = {"id": 1, "organization": 2, "timestamp": "2026-05-11T08:15:00Z", "user": 3}
    record |= {"action_type": action, "operation_type": operation, "object_type": thing}
    event = one(record, "cekura")
    found = (event.native_action, event.kind, event.verb, event.outcome, event.warnings)
    assert found == expected


@pytest.mark.parametrize(
    ("event_type", "expected"),
    [
        ("auth.sso_login", ("session", "login", "success", ())),
        ("auth.logout", ("session", "logout", "success", ())),
        ("pathway.created", ("pathway", "create", "success", ())),
        ("pathway.updated", ("pathway", "update", "success", ())),
        ("pathway.deleted", ("pathway", "delete", "success", ())),
        ("pathway.published", ("pathway", "publish", "success", ())),
        ("kb.content_updated", ("knowledge_base", "update", "success", ())),
        ("kb.file_replaced", ("knowledge_base", "replace", "success", ())),
        ("kb.urls_replaced", ("knowledge_base", "replace", "success", ())),
        ("kb.version_restored", ("knowledge_base", "restore", "success", ())),
        ("pathway.archived", ("pathway", "other", "unknown", ("unknown_action",))),
        ("kb.purged",
         ("knowledge_base", "delete", "unknown", ("unknown_action", "heuristic_verb"))),
        ("auth.login_failed", ("other", "other", "failure", ("unknown_action",))),
        ("member.created", ("other", "create", "unknown", ("unknown_action", "heuristic_verb"))),
        (None, ("other", "other", "unknown", ("unknown_action",))),
        (["x"], ("other", "other", "unknown", ("unknown_action",))),
    ],
)  # fmt: skip
def test_the_action_of_bland_is_one_word(
    event_type: object,
    expected: tuple[str, str, str, tuple[str, ...]],
    one: Callable[..., AuditEvent],
) -> None:
    event = one({"id": "1", "created_at": "2026-03-02T14:32:00.000Z", "event_type": event_type})
    assert (event.kind, event.verb, event.outcome, event.warnings) == expected
