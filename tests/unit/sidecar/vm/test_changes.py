from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import Conflict
from sidecar.vm.changes import ABSENT, Content, Journal, Plan, plan, plan_removal

OURS, OTHERS, BEFORE = (Content.text(t) for t in ("ours\n", "others\n", "before\n"))
LINK = Content(link="../run/resolv.conf")


def carried_out(made: Plan, actual: dict[str, Content]) -> dict[str, Content]:
    return {**actual, **{s.path: s.content for s in made.steps}}


@pytest.mark.parametrize("before", [ABSENT, BEFORE, LINK, Content(data=b"", mode=0o755)])
def test_what_stood_there_comes_back(before: Content):
    made = plan({"/a": OURS}, {"/a": before}, Journal())
    there = carried_out(made, {"/a": before})
    assert there == {"/a": OURS}
    gone = plan_removal(made.journal, there)
    assert carried_out(gone, there) == {"/a": before}
    assert gone.journal.entries == ()


def test_again_changes_nothing():
    made = plan({"/a": OURS}, {"/a": BEFORE}, Journal())
    again = plan({"/a": OURS}, {"/a": OURS}, made.journal)
    assert again == Plan(journal=made.journal)


def test_a_mode_that_is_not_ours_is_set_again():
    made = plan({"/a": OURS}, {"/a": BEFORE}, Journal())
    (step,) = plan({"/a": OURS}, {"/a": Content(data=OURS.data, mode=0o666)}, made.journal).steps
    assert step.content == OURS


def test_what_somebody_else_has_put_there_alike_is_not_taken_away():
    made = plan({"/a": OURS}, {"/a": OURS}, Journal())
    assert made == Plan(journal=Journal())
    assert plan_removal(made.journal, {}).steps == ()


def test_a_run_that_was_cut_off_is_finished_or_undone():
    """The journal is written before the steps."""
    wanted, before = {"/a": OURS, "/b": OURS}, {"/a": BEFORE, "/b": BEFORE}
    made = plan(wanted, before, Journal())
    for done in range(3):
        there = {**before, **{s.path: s.content for s in made.steps[:done]}}
        assert carried_out(plan(wanted, there, made.journal), there) == wanted
        assert carried_out(plan_removal(made.journal, there), there) == before


def test_what_was_edited_since_is_left_and_told():
    made = plan({"/a": OURS, "/b": OURS}, {"/a": BEFORE, "/b": ABSENT}, Journal())
    there = {"/a": OTHERS, "/b": OURS}
    with pytest.raises(Conflict) as caught:
        plan({"/a": OURS, "/b": OURS}, there, made.journal)
    assert caught.value.error_code == "file_changed"
    assert "/a was changed by somebody else" in caught.value.message
    gone = plan_removal(made.journal, there)
    assert gone.kept == ("/a",)
    assert carried_out(gone, there) == {"/a": OTHERS, "/b": ABSENT}
    assert [e.path for e in gone.journal.entries] == ["/a"], "it can be taken back later"
    assert plan_removal(gone.journal, {"/a": BEFORE}) == Plan(journal=Journal())
    assert plan_removal(gone.journal, there, keep_changed=True).journal == Journal()


@pytest.mark.parametrize("how", [{"adopt": ("/a",)}, {"replace": True}])
def test_what_others_may_rewrite_is_the_new_before(how: dict):
    made = plan({"/a": OURS}, {"/a": BEFORE}, Journal())
    again = plan({"/a": OURS}, {"/a": OTHERS}, made.journal, **how)
    there = carried_out(again, {"/a": OTHERS})
    assert there == {"/a": OURS}
    assert carried_out(plan_removal(again.journal, there), there) == {"/a": OTHERS}


def test_a_file_of_ours_that_somebody_removed_comes_back_as_it_was_before():
    made = plan({"/a": OURS}, {"/a": BEFORE}, Journal())
    assert carried_out(plan_removal(made.journal, {"/a": ABSENT}), {"/a": ABSENT}) == {"/a": BEFORE}


def test_another_way_takes_the_former_one_back():
    made = plan({"/a": OURS}, {"/a": BEFORE}, Journal())
    there = {"/a": OURS, "/b": ABSENT}
    other = plan({"/b": OURS}, there, made.journal)
    assert carried_out(other, there) == {"/a": BEFORE, "/b": OURS}
    assert [e.path for e in other.journal.entries] == ["/b"]


def test_a_newer_version_of_ours_still_goes_back_to_the_oldest():
    made = plan({"/a": OURS}, {"/a": BEFORE}, Journal())
    newer = Content.text("newer\n")
    again = plan({"/a": newer}, {"/a": OURS}, made.journal)
    assert carried_out(plan_removal(again.journal, {"/a": newer}), {"/a": newer}) == {"/a": BEFORE}
    assert carried_out(plan_removal(again.journal, {"/a": OURS}), {"/a": OURS}) == {"/a": BEFORE}, "if it was cut off"


_contents = st.sampled_from([ABSENT, OURS, OTHERS, BEFORE, LINK, Content.text("newer\n")])
_paths = st.sampled_from(["/a", "/b", "/c"])
_states = st.fixed_dictionaries({p: _contents for p in ("/a", "/b", "/c")})


@given(before=_states, rounds=st.lists(st.dictionaries(_paths, _contents.filter(lambda c: not c.absent)), max_size=4))
def test_any_number_of_installations_is_undone_by_one_removal(before, rounds):
    there, journal = dict(before), Journal()
    for wanted in rounds:
        made = plan(wanted, there, journal)
        there, journal = carried_out(made, there), made.journal
        assert {p: there[p] for p in wanted} == wanted
    gone = plan_removal(journal, there)
    assert carried_out(gone, there) == before
    assert gone.kept == ()
