"""The real programs that other tests use: PostgreSQL, an S3 server, LibreOffice."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

import obstore
import psycopg
import pytest
import xlsxwriter
from obstore.store import S3Store

from tests import object_store as s3
from tests import postgresql
from tests.object_store import ObjectStore
from tests.office import needs_office, rows_of_sheet


@pytest.mark.parametrize("time", ["first", "second"])
def test_each_test_has_an_empty_database_of_a_role_with_a_password(postgres_url: str, time: str) -> None:
    assert unquote(postgres_url).startswith(f"postgresql://{postgresql.ROLE}:{postgresql.PASSWORD}@127.0.0.1:")
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE mine (title text)")
        connection.execute("INSERT INTO mine VALUES ('Zoë 🎈')")
        assert connection.execute("SELECT title, current_user FROM mine").fetchall() == [("Zoë 🎈", "parti")]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres_url.replace(postgresql.SECRET, "wrong"))


def test_each_test_has_an_empty_bucket_that_refuses_to_replace_an_object_if_told_so(object_store: ObjectStore) -> None:
    environment = object_store.environment
    store = S3Store.from_url(
        object_store.url,
        endpoint=environment["AWS_ENDPOINT_URL"],
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=s3.SECRET,
        region=environment["AWS_REGION"],
        client_options={"allow_http": True},
    )
    assert list(obstore.list(store)) == []
    obstore.put(store, "folder/manifest.json", b"{}", mode="create")
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(store, "folder/manifest.json", b"[]", mode="create")
    assert bytes(obstore.get(store, "folder/manifest.json").bytes()) == b"{}"


@needs_office
def test_a_sheet_is_read_as_libreoffice_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    with xlsxwriter.Workbook(path, {"strings_to_formulas": False}) as book:
        book.add_worksheet("first").write_row(0, 0, ["elsewhere"])
        sheet = book.add_worksheet("second")
        sheet.write_row(0, 0, ["007", '=1+1, "Zoë" 🎈\n', 1234567890123456])
        sheet.write_datetime(1, 0, datetime(2026, 11, 27, 21, 45), book.add_format({"num_format": "yyyy-mm-dd hh:mm"}))  # noqa: DTZ001 - workbooks have no time zones
    assert rows_of_sheet(path, "second") == [
        ["007", '=1+1, "Zoë" 🎈\n', "1234567890123456"],
        ["2026-11-27 21:45", "", ""],
    ]
