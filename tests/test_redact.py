"""Secrets are removed, and nothing else."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.redact import MAX_DEPTH, is_secret_name, redact, redact_unparsed, redact_url

JWT = "eyJhbGciOiJFUzM4NCJ9.eyJhd3M6Y2hhbm5lbC1hcm4iOiJhIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "name",
    [
        "playback_auth_token",
        "playbackAuthToken",
        "token",
        "chat-token",
        "jwt",
        "client_secret",
        "password",
        "stream_key",
        "streamKey",
        "api_key",
        "apiKey",
        "apikey",
        "Authorization",
        "user_credentials",
        "refresh_token",
        "refreshTokens",
        "pwd",
        "user_passwd",
        "bearer",
        "sid",
        "otp",
        "auth",
        "auth_code",
        "code",
        "refresh",
        "hmac",
        "ingest_endpoint",
    ],
)
def test_fields_named_like_secrets_are_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "token_symbol",
        "token_count",
        "key",
        "monkey",
        "passport",
        "event_title",
        "keyboard",
        "secretary",
        "discord_discriminator",
        "social_username",
        "category_code",
        "country_code",
        "auto_refresh",
        "author",
        "requires_auth",
        "inside",
        "",
    ],
)
def test_other_fields_are_not(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"https://x.example/a.m3u8?token={JWT}", "https://x.example/a.m3u8"),
        (f"https://x.example/a.m3u8?player=1&token={JWT}&dvr=true", "https://x.example/a.m3u8?player=1&dvr=true"),
        (f"https://x.example/a.m3u8?t={JWT}&dvr=true", "https://x.example/a.m3u8?dvr=true"),
        ("https://x.example/a?w=1&X-Amz-Signature=abc&X-Amz-Date=1", "https://x.example/a?w=1"),
        ("https://x.example/a?X-Goog-Signature=a&X-Goog-Date=1&alt=media", "https://x.example/a?alt=media"),
        ("https://x.example/a?Expires=1&Signature=a~b_&Key-Pair-Id=K&w=1", "https://x.example/a?w=1"),
        ("https://x.example/a?Policy=a&Signature=b&Key-Pair-Id=K", "https://x.example/a"),
        ("https://x.example/a?AWSAccessKeyId=A&Expires=1&Signature=b", "https://x.example/a"),
        ("https://x.example/a?sv=1&st=2&se=3&sr=b&sp=r&sig=x%3D&comp=list", "https://x.example/a?comp=list"),
        ("https://x.example/a?st=2&se=3&sp=r&e=4&exp=5&ts=6", "https://x.example/a?st=2&se=3&sp=r&e=4&exp=5&ts=6"),
        ("https://x.example/a?hdnts=exp=1~acl=/*~hmac=ab&b=1", "https://x.example/a?b=1"),
        ("https://x.example/hdntl=exp=1~hmac=ab/a.ts", "https://x.example//a.ts"),
        ("https://x.example/a?e=1&b=2&hmac=3&ts=4", "https://x.example/a?b=2"),
        ("https://x.example/a?ex=1&is=2&hm=3&width=5", "https://x.example/a?width=5"),
        (
            "https://x.example/a?b=%2B%20&code=S&pwd=S&refresh=S&bearer=S&sid=S&otp=S&c=+",
            "https://x.example/a?b=%2B%20&c=+",
        ),
        # Other networks and other kinds of signatures.
        ("https://x.example/a?x-oss-date=1&x-oss-expires=2&x-oss-signature=S&w=1", "https://x.example/a?w=1"),
        ("https://x.example/a?q-sign-time=1&q-ak=S&q-header-list=&q-signature=S&w=1", "https://x.example/a?w=1"),
        ("https://x.example/a?X-Tos-Algorithm=1&X-Tos-Date=2&X-Tos-Signature=S&w=1", "https://x.example/a?w=1"),
        ("https://x.example/a?x-expires=1&x-signature=S&w=1", "https://x.example/a?w=1"),
        ("https://x.example/a?sign=S&t=1&w=1", "https://x.example/a?w=1"),
        ("https://x.example/a?hash=S&expires=1&w=1", "https://x.example/a?w=1"),
        ("https://x.example/a?txSecret=S&txTime=1&w=1", "https://x.example/a?w=1"),
        ("https://x.example/a?URLPrefix=S&Expires=1&KeyName=k&Signature=S&w=1", "https://x.example/a?w=1"),
        ("https://x.example/a?verify=1-S&w=1", "https://x.example/a?w=1"),
        ("https://x.example/exp=1~acl=/*~hmac=S/a?w=1", "https://x.example//a?w=1"),
        ("https://x.example/a?hash=1&t=2&date=3&w=1", "https://x.example/a?hash=1&t=2&date=3&w=1"),
        ("https://x.example/a?country_code=US&n=1", "https://x.example/a?country_code=US&n=1"),
        ("https://x.example/a?%74oken=S&b=1", "https://x.example/a?b=1"),
        ("https://x.example/a?a=1&amp;token=S&b=2", "https://x.example/a?a=1&amp&b=2"),
        (
            "https://x.example/a?to=https%3A%2F%2Fy.example%2F%3Ftoken%3DS%26b%3D1",
            "https://x.example/a?to=https%3A%2F%2Fy.example%2F%3Fb%3D1",
        ),
        ("https://x.example/a;jsessionid=S/b", "https://x.example/a/b"),
        ("https://x.example/a#/b?token=S&c=1", "https://x.example/a#/b&c=1"),
        ("a/b.m3u8?token=S", "a/b.m3u8"),
        ("a/b.m3u8?token=S&dvr=1", "a/b.m3u8?dvr=1"),
        ("//user:pass@x.example/a?auth=S", "//x.example/a"),
        ("ftp://user:pass@x.example/a", "ftp://x.example/a"),
        ("https://x.example/a?sig=1&design=2&authors=3", "https://x.example/a?design=2&authors=3"),
        ("https://user:pass@x.example:8443/a", "https://x.example:8443/a"),
        ("https://x.example/a?b=%20+c&d", "https://x.example/a?b=%20+c&d"),
        (f"https://x.example/a#token={JWT}", "https://x.example/a"),
        (f"https://x.example/{JWT}/a.m3u8", "https://x.example//a.m3u8"),
        (f"https://[::1?token={JWT}", "https://[::1"),
        ("", ""),
        ("no url at all", "no url at all"),
    ],
)
def test_urls_lose_only_their_tokens(url: str, expected: str) -> None:
    assert redact_url(url) == expected


def test_secrets_are_removed_everywhere() -> None:
    record = {
        "a": [{"auth_token": "S3CRET", "kept": 1}],
        "links": {"play": "https://x.example/p?token=S3CRET&q=1"},
        "jws": JWT,
        "text": f"see {JWT}!",
        "log": "in: ftp://me:S3CRET@x.example/a.csv, and https://x.example/p?token=S3CRET or me@x.example; a = b",
        "json": '{"streamKey": "S3CRET", "b": 1}',
        "https://x.example/p?q=1&token=S3CRET": 1,
    }
    assert redact(record) == {
        "a": [{"kept": 1}],
        "links": {"play": "https://x.example/p?q=1"},
        "jws": "",
        "text": "see !",
        "log": "in: ftp://x.example/a.csv, and https://x.example/p or me@x.example; a = b",
        "json": '{"streamKey": , "b": 1}',
        "https://x.example/p?q=1": 1,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"token": "a\\"S3CRET", "b": 1', '{"token": , "b": 1'),
        ('{"token": "S3CRET', '{"token": '),
        ("{'pwd': 'S3CRET', 'title': 'x: y'}", "{'pwd': , 'title': 'x: y'}"),
        ('{"a": {"token": {"b": ["S3CRET"]}}, "c": 1}', '{"a": {"token": '),
        ("Authorization: Bearer S3CRET\nHost: x", "Authorization: \nHost: x"),
        ("otp=123456&b=1", "b=1"),
        # As JSON encoders for web pages write it, and JSON within a text.
        (r'{"a": "https:\/\/x.example\/?b=1\u0026token\u003dS3CRET", c', '{"a": "https://x.example/?b=1 c'),
        (r'{"a": "https:\/\/x.example\/?b=1\u0026c=1", d', r'{"a": "https:\/\/x.example\/?b=1\u0026c=1", d'),
        (r'{"a": "{\"token\":\"S3CRET and more\"}", b', r'{"a": "{\"token\":}", b'),
    ],
)
def test_text_that_is_no_json_loses_what_is_named_as_a_secret(text: str, expected: str) -> None:
    assert redact_unparsed(text) == expected


@given(st.text(alphabet="ab01-_", min_size=1), st.text(alphabet="ab01-_", min_size=1), st.integers(0, 2**31))
def test_an_address_is_the_same_with_any_signature(one: str, other: str, expires: int) -> None:
    def signed(signature: str, until: int) -> str:
        return f"https://x.example/a.jpg?w=1&Expires={until}&Signature={signature}&Key-Pair-Id=K&h=2"

    assert redact_url(signed(one, expires)) == redact_url(signed(other, 5)) == "https://x.example/a.jpg?w=1&h=2"


@given(st.text())
def test_text_without_a_secret_does_not_change(text: str) -> None:
    url = f"https://x.example/a?q={quote(text)}&b=2"
    assert redact_url(url) == url


def test_endless_nesting_is_cut_and_marked() -> None:
    deep: object = "S3CRET"
    for _ in range(400):
        deep = {"a": deep}
    text = json.dumps(redact(deep))
    assert "S3CRET" not in text
    assert f"nested more than {MAX_DEPTH} levels deep" in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(JSON, st.sampled_from(["token", "playbackAuthToken", "stream_key"]))
def test_a_secret_is_found_at_any_depth(value: object, name: str) -> None:
    assert "S3CRET" not in json.dumps(redact([{"x": [value, {name: {"deeper": ["S3CRET"]}}]}]))


@given(st.text(), st.text())
def test_a_token_in_a_query_is_always_removed(path: str, other: str) -> None:
    assert "S3CRETS3CRET" not in redact_url(
        f"https://x.example/{path.replace('?', '').replace('#', '')}?token=S3CRETS3CRET&x={other}"
    )
