from federation.cli.text import age, timestamp

SECOND = 1_000_000_000


def test_timestamps():
    assert timestamp(1_750_000_000 * SECOND + 999) == "2025-06-15T15:06:40Z"
    assert timestamp(0) == ""


def test_ages():
    now = 10 * 86_400 * SECOND
    ago = {1: "1s", 119: "119s", 120: "2m", 7199: "119m", 7200: "2h", 172_800: "2d"}
    assert {seconds: age(now - seconds * SECOND, now) for seconds in ago} == ago
    assert age(0, now) == ""
    assert age(now + 5 * SECOND, now) == "0s"
