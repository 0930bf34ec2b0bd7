"""The address of a PostgreSQL database: what libpq makes of it, and the schema that the tables are in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from parti_scraper.api.times import UnparsableError
from parti_scraper.dataset.engine import require
from parti_scraper.exceptions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

# The second one is how some providers write it.
SCHEMES = ("postgresql://", "postgres://")
ACCEPTED = (
    "postgresql://USER:PASSWORD@HOST:PORT/DATABASE?schema=parti, USER and PASSWORD percent-encoded; "
    "or postgresql:// alone, for that of the environment variable PARTI_DATABASE_URL"
)
DEFAULT_SCHEMA = "parti"
# Of libpq, unless the address says otherwise. A server that is gone is given up: after 10 s where it cannot be reached,
# after 60 s where it was connected.
_PARAMETERS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
    "fallback_application_name": "parti_scraper",
}

_PROBLEM = "not an address of PostgreSQL"
_SECRETS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
_PORTS = re.compile(r"(\d*,)*\d*")
# Bytes; PostgreSQL would cut a longer name.
_LONGEST_NAME = 63


@dataclass(frozen=True, slots=True)
class Address:
    """Where a database is, and how to get in.

    Attributes:
        parameters: of libpq, with the password.
        schema: the name of the schema.
        shown: the address without credentials.
    """

    parameters: Mapping[str, str] = field(repr=False)
    schema: str
    shown: str

    @property
    def connection(self) -> dict[str, str]:
        """What a connection is opened with."""
        return _PARAMETERS | dict(self.parameters) | {"client_encoding": "UTF8"}

    @property
    def place(self) -> tuple[str, ...]:
        """What two addresses of the same schema have in common, unless its server has several names."""
        found = self.parameters
        host = found.get("hostaddr") or found.get("host", "")
        database = found.get("dbname") or found.get("user", "")
        return ("127.0.0.1" if host == "localhost" else host, found.get("port") or "5432", database, self.schema)

    def redact(self, text: str) -> str:
        """Return a text of libpq or the server without the secrets of the address."""
        for secret in filter(None, map(self.parameters.get, _SECRETS)):
            for form in (secret, quote(secret, safe="")):
                text = text.replace(form, "***")
        return text


def parse_address(text: str) -> Address:
    """Parse an address as libpq does, whose own errors may show a part of the password.

    Raises:
        UnparsableError: it is none; the text does not show any of it.
        ExtraMissing: psycopg is not installed.
    """
    require("psycopg", "postgres")
    from psycopg import Error  # noqa: PLC0415 - only those who have PostgreSQL need it
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    if not text.startswith(SCHEMES):
        raise UnparsableError(_PROBLEM)
    _, _, rest = text.partition("://")
    credentials, mark, after = rest.partition("@")
    if not mark or "/" in credentials:
        credentials, mark, after = "", "", rest
    location, _, query = after.partition("?")
    if "@" in location:
        raise UnparsableError(f"{_PROBLEM}: its user or password has a character that is to be percent-encoded")
    others, schema = _without_schema(query)
    try:
        found = conninfo_to_dict(f"{SCHEMES[0]}{credentials}{mark}{location}?{others}")
    except Error:
        raise UnparsableError(_PROBLEM, _hint(others)) from None
    parameters = {name: str(value) for name, value in found.items()}
    if not _PORTS.fullmatch(parameters.get("port", "")):
        raise UnparsableError(f"{_PROBLEM}: its port is not a number")
    shown = f"{SCHEMES[0]}{location}" + (f"?schema={quote(schema)}" if schema != DEFAULT_SCHEMA else "")
    return Address(parameters, schema, shown)


def _without_schema(query: str) -> tuple[str, str]:
    """Return the parameters that are for libpq, and the name of the schema. Raises UnparsableError."""
    schema, others = DEFAULT_SCHEMA, []
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        if unquote(name) == "schema":
            schema = unquote(value)
        else:
            others.append(parameter)
    is_name = schema.isprintable() and 0 < len(schema.encode(errors="replace")) <= _LONGEST_NAME
    if not is_name or schema.startswith("pg_"):
        raise UnparsableError(f"{_PROBLEM}: its schema is not a name that PostgreSQL takes")
    return "&".join(others), schema


def _hint(query: str) -> str:
    """Return the end of an error about a parameter that libpq does not know: the most similar one."""
    from psycopg.pq import Conninfo  # noqa: PLC0415

    known = {"schema", *(each.keyword.decode() for each in Conninfo.get_defaults())}
    names = [unquote(parameter.partition("=")[0]) for parameter in query.split("&")]
    return next((hint for name in names if name not in known and (hint := did_you_mean(name, known))), "")
