"""No secret passes, and nothing else is lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.redact import MAX_DEPTH, is_secret_name, redact, redact_url

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
    ],
)
def test_fields_named_like_secrets_are_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["token_symbol", "token_count", "key", "monkey", "passport", "event_title", "keyboard", "secretary", ""]
)
def test_other_fields_are_not(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"https://x.example/a.m3u8?token={JWT}", "https://x.example/a.m3u8"),
        (f"https://x.example/a.m3u8?player=1&token={JWT}&dvr=true", "https://x.example/a.m3u8?player=1&dvr=true"),
        (f"https://x.example/a.m3u8?t={JWT}&dvr=true", "https://x.example/a.m3u8?dvr=true"),
        ("https://x.example/a?X-Amz-Signature=abc&X-Amz-Date=1", "https://x.example/a?X-Amz-Date=1"),
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
def test_urls_lose_their_tokens_alone(url: str, expected: str) -> None:
    assert redact_url(url) == expected


def test_secrets_go_wherever_they_are() -> None:
    record = {
        "a": [{"auth_token": "S3CRET", "kept": 1}],
        "links": {"play": "https://x.example/p?token=S3CRET&q=1"},
        "bearer": JWT,
        "text": f"see {JWT}!",
    }
    assert redact(record) == {
        "a": [{"kept": 1}],
        "links": {"play": "https://x.example/p?q=1"},
        "bearer": "",
        "text": "see !",
    }


def test_what_is_nested_without_end_is_cut_and_says_so() -> None:
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
def test_a_token_in_a_query_never_passes(path: str, other: str) -> None:
    assert "S3CRETS3CRET" not in redact_url(
        f"https://x.example/{path.replace('?', '').replace('#', '')}?token=S3CRETS3CRET&x={other}"
    )
