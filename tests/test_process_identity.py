"""Who lives and who is gone, told from elsewhere and later."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from cryoseg import process_identity
from cryoseg.process_identity import identity_from, identity_of


@pytest.fixture
def other():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def test_a_process_is_gone_once_it_has_ended_even_where_nobody_asked_how(other):
    identity = identity_of(other.pid)
    assert not identity.is_gone
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert identity.is_gone  # a zombie
    other.wait()
    assert identity.is_gone
    assert identity_from(identity.values()) == identity


def test_who_has_the_number_now_is_another_one(other):
    identity = identity_of(other.pid)
    assert replace(identity, began=identity.began - 1).is_gone
    assert not replace(identity, began=None).is_gone


def test_of_another_place_nothing_is_known():
    gone = replace(identity_of(), began=1)
    assert gone.is_gone
    for change in ({"host": "b"}, {"machine": "b"}, {"namespace": "b"}):
        assert not replace(gone, **change).is_gone


def at(monkeypatch, **place):
    """Let this process be somewhere else."""
    here = process_identity._here() | place
    monkeypatch.setattr(process_identity, "_here", lambda: here)


def test_after_another_start_of_the_same_machine_it_is_gone(monkeypatch):
    at(monkeypatch, machine="5c1d")
    assert replace(identity_of(), boot="an earlier one").is_gone


def test_in_a_container_without_a_machines_number_another_start_may_be_another_machines(
    monkeypatch,
):
    at(monkeypatch, machine="")
    assert not replace(identity_of(), boot="of another machine").is_known
    assert not replace(identity_of(), boot="of another machine", began=1).is_gone
    assert replace(identity_of(), began=1).is_gone  # the boot is this machine's


def test_where_no_start_is_told_none_is_another_one(monkeypatch):
    at(monkeypatch, machine="5c1d")
    assert not replace(identity_of(), boot="").is_gone
    at(monkeypatch, boot="")
    assert not replace(identity_of(), boot="an earlier one").is_gone


def test_containers_of_one_name_on_two_machines_count_in_something_else(monkeypatch):
    """What one of them writes aside is not the orphan of the other."""
    places = set()
    for boot in ("of a machine", "of another"):
        at(monkeypatch, machine="", boot=boot)
        places.add(process_identity.place_of_numbers())
    assert len(places) == 2
    at(monkeypatch, machine="5c1d", boot="a start")
    before = process_identity.place_of_numbers()
    at(monkeypatch, machine="5c1d", boot="the next one")
    assert process_identity.place_of_numbers() == before  # a restart's orphans are known


def test_a_process_that_is_hidden_from_us_is_taken_to_live(other, monkeypatch):
    identity = identity_of(other.pid)

    def hidden(number):
        raise PermissionError

    monkeypatch.setattr(process_identity, "_looked_at", hidden)
    monkeypatch.setattr(process_identity.os, "kill", lambda number, signal: hidden(number))
    assert not identity.is_gone
    assert identity_of(other.pid).began is None


@pytest.mark.parametrize(
    "values",
    [5, [], {}, {"number": 1}, identity_of().values() | {"number": -1},
     identity_of().values() | {"number": "1"}, identity_of().values() | {"host": 5}],
)  # fmt: skip
def test_what_names_no_process_is_refused(values):
    with pytest.raises(ValueError, match="process"):
        identity_from(values)
