import inspect

from federation import errors
from federation.errors import IsthmusError, NotFound


def test_an_error_has_a_line_a_code_and_what_to_do():
    error = NotFound("no cluster 'x'", hint="see fedctl get clusters", code="unknown_cluster")
    assert error.as_dict() == {
        "code": "unknown_cluster",
        "message": "no cluster 'x'",
        "hint": "see fedctl get clusters",
    }
    assert str(error) == "no cluster 'x' (see fedctl get clusters)"
    assert str(NotFound("gone")) == "gone"


def test_codes_are_unique_and_exit_statuses_are_those_of_the_documentation():
    kinds = [k for _, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, IsthmusError)]
    codes = [k.code for k in kinds]
    assert len(codes) == len(set(codes))
    assert {k.code: k.exit_status for k in kinds} == {
        "internal": 1,
        "invalid_input": 2,
        "invalid_name": 2,
        "invalid_settings": 2,
        "not_found": 3,
        "already_exists": 4,
        "denied": 5,
        "unavailable": 6,
        "conflict": 7,
        "quota_exceeded": 8,
        "corrupt_state": 9,
        "storage_failed": 10,
        "timed_out": 11,
    }
