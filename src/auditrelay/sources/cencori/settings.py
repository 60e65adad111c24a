"""The settings of a Cencori source, in either mode."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from auditrelay.settings import SourceSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import Duration
from auditrelay.sources.cencori.session import cookies
from auditrelay.window import MAX_WINDOW

SLUG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,98}[A-Za-z0-9])?", re.ASCII)


class Settings(SourceSettings):
    """One organisation at Cencori, read from exported files or from the dashboard."""

    IDENTITIES = frozenset(
        ("actor.id", "actor.email", "actor.ip", "target.id", "target.name", "target.email")
    )
    type: Literal["cencori"]
    base_url: Address = "https://cencori.com"
    initial_lookback: Duration = Field(timedelta(days=6), ge=timedelta(0), le=MAX_WINDOW)
    """The smallest plan with an audit log shows the last seven days; one day is a margin."""
    page_size: int = Field(100, ge=1, le=100)
    """The maximum of the dashboard's list. It does not apply to files."""
    mode: Literal["files", "dashboard"]
    directory: Path | None = None
    """The folder that exported files are put into."""
    organization_slug: str | None = None
    """The organisation's name in the addresses of the dashboard."""
    cookie: Secret | None = None
    """The header ``Cookie`` of a user who is signed in as an owner or admin."""

    @property
    def filters_time(self) -> bool:
        """Every walk starts at the newest record."""
        return False

    @property
    def not_shared(self) -> str | None:
        """The dashboard renews its session again and again, and every replica needs the newest."""
        if self.mode == "files":
            return None
        return (
            'mode: "dashboard" does not work with a shared store: the session that the vendor '
            "renews would have to be in the database, readable for everybody who reads that; use "
            'mode = "files", or read this source with an instance of its own, without the key store'
        )

    @property
    def export_directory(self) -> Path | None:
        """The folder that exports are put into."""
        return self.directory

    @property
    def record_paths(self) -> dict[str, list[str]]:
        """Where rows have their time: in a JSON field, or in a column of a CSV file."""
        return {} if self.mode == "dashboard" else {"time_path": ["created_at", "Timestamp"]}

    @field_validator("organization_slug")
    @classmethod
    def _is_a_slug(cls, slug: str | None) -> str | None:
        if slug is not None and SLUG.fullmatch(slug) is None:
            raise ValueError(
                f"{slug!r} is not the slug of an organisation: write the part after "
                'cencori.com/ in the address of the dashboard, such as "acme"'
            )
        return slug

    @field_validator("cookie")
    @classmethod
    def _is_a_session(cls, cookie: Secret | None) -> Secret | None:
        if cookie is not None and not cookies(cookie.reveal()):
            raise ValueError(
                "has no cookie sb-...-auth-token: copy the whole header, name=value; name=value"
            )
        return cookie

    @model_validator(mode="after")
    def _has_what_the_mode_needs(self) -> Self:
        wanted = {"files": ("directory",), "dashboard": ("organization_slug", "cookie")}
        for key in wanted[self.mode]:
            if getattr(self, key) is None:
                raise ValueError(f'{key}: is missing; mode = "{self.mode}" needs it')
        if self.mode == "files" and self.cookie is not None:
            raise ValueError('cookie: is only for mode = "dashboard"')
        if self.mode == "dashboard" and self.directory is not None:
            raise ValueError('directory: is only for mode = "files"')
        return self


EXAMPLE = """\
[sources.acme-labs]
type = "cencori"

# Cencori has no API for its audit log. "files": exports that an operator or a job puts into a
# folder. "dashboard": the list of the dashboard, with the session of a user who is signed in; the
# vendor does not document it, and it may change at any time.
mode = "files"
# The folder of the exports, JSON or CSV, under the names that the dashboard gives them.
directory = "/var/lib/auditrelay/cencori"
# The part after cencori.com/ in the address of the dashboard. "dashboard" requires it; with "files"
# exports of other organisations are ignored.
# organization_slug = "acme"  # no default
# "dashboard" only: the header Cookie of an owner or admin, at least its sb-...-auth-token.
# cookie = "${env:CENCORI_COOKIE}"  # no default
# base_url = "https://cencori.com"
# The smallest plan with an audit log shows seven days.
# initial_lookback = "6d"
# page_size = 100
"""
"""Its table in config.example.toml: every key, those with a default commented out."""
