"""The control plane over real sockets on this machine: incarnations, relays, deaths, requests, refusals."""

import json
import stat
import threading
import time
from types import SimpleNamespace

import pytest

from acceerl.runtime import registry as registry_module
from acceerl.runtime.registry import Registry, RegistryClient, RegistryRefused, RegistryTimeout


@pytest.fixture
def registry(tmp_path):
    server = Registry(tmp_path, grace_s=0.1)
    yield server
    server.wait_closed()


@pytest.fixture
def join(tmp_path, registry):
    clients = []

    def make(role, index=0, **options):
        client = RegistryClient(tmp_path, role, index, timeout_s=5, **options)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.005)


def test_address_file_is_private(registry):
    assert stat.S_IMODE(registry.path.stat().st_mode) == 0o600


def test_wrong_token_is_refused(tmp_path, registry):
    address = json.loads(registry.path.read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "registry.json").write_text(json.dumps({**address, "token": "guess"}))
    with pytest.raises(RegistryRefused, match=r"rollout\[3\]: wrong token"):
        RegistryClient(other, "rollout", 3, timeout_s=5)
    assert registry.processes() == {}


def test_no_registry_is_a_timeout_that_names_both(tmp_path):
    with pytest.raises(RegistryTimeout, match=r"rollout\[3\] waited 0 s for the registry of"):
        RegistryClient(tmp_path, "rollout", 3, timeout_s=0.1)


def test_announce_and_peer(join):
    learner, inference = join("learner"), join("inference", 1)
    assert learner.announce(port="here") == 1
    assert inference.announce() == 1
    assert inference.peer("learner", 0) == ("here", 1)


def test_a_fact_belongs_to_one_life(join, registry):
    learner, other = join("learner"), join("learner", 1)
    assert other.fact("learner", 0, "rendezvous") is None
    learner.announce()
    learner.publish("rendezvous", ["127.0.0.1", 7, "a"])
    until(lambda: other.fact("learner", 0, "rendezvous") == ["127.0.0.1", 7, "a"])
    assert join("learner").announce() == 2
    assert other.fact("learner", 0, "rendezvous") is None, "a new life has published nothing yet"


def test_the_address_of_a_run_on_one_machine_is_local(join):
    assert join("learner").address == "127.0.0.1"


def test_waiting_for_an_absent_peer_names_both(join):
    with pytest.raises(RegistryTimeout, match=r"rollout\[17\] waited 0 s for inference\[1\] to announce itself"):
        join("rollout", 17).peer("inference", 1, timeout_s=0.1)


def test_knocks_are_passed_on_with_the_incarnation(join):
    server, client = join("inference"), join("rollout", 4)
    server.announce("port")
    client.announce()
    client.knock("inference", 0)
    until(lambda: server.events)
    event = server.events.popleft()
    assert (event.what, event.role, event.index, event.incarnation) == ("knock", "rollout", 4, 1)


def test_a_restarted_process_gets_a_new_incarnation_and_its_friends_hear_of_it(join):
    server, client = join("inference"), join("rollout", 4)
    server.announce("port")
    client.announce()
    client.knock("inference", 0)
    again = join("rollout", 4)
    assert again.announce() == 2
    until(lambda: [e.what for e in server.events] == ["knock", "gone"])
    assert server.events[-1].incarnation == 1
    until(lambda: client.refused)


def test_a_closed_line_is_a_death_after_the_grace_time(join, registry):
    server, client = join("inference"), join("rollout", 4)
    server.announce("port")
    client.announce()
    client.knock("inference", 0)
    client.close()
    until(lambda: any(e.what == "gone" for e in server.events))
    assert not registry.processes()["rollout", 4].alive


@pytest.fixture
def pass_by(monkeypatch, registry):
    """`pass_by(10, 10)`: so many seconds without a word, then a look, and again; all in the registry's thread."""
    clock = SimpleNamespace(ahead=0.0, monotonic=lambda: time.monotonic() + clock.ahead, time=time.time)
    monkeypatch.setattr(registry_module, "time", clock)

    def looks(steps, done):
        for seconds in steps:
            clock.ahead += seconds
            registry._watch()
        done.set()

    def wait_for_looks(*steps):
        registry._soon(looks, steps, done := threading.Event())
        assert done.wait(5)

    return wait_for_looks


@pytest.mark.parametrize(
    ("steps", "alive"),
    [
        ([10.0] * 7, False),  # silent for longer than `silent_s`, and the registry listened
        ([300.0], True),  # it was asleep itself
        ([300.0, *[10.0] * 5], True),
        ([300.0, *[10.0] * 7], False),
    ],
)
def test_silence_counts_while_the_registry_is_awake(join, registry, pass_by, steps, alive):
    client = join("rollout", 4)
    client.announce()
    pass_by(*steps)
    assert registry.processes()["rollout", 4].alive is alive


def test_the_keeper_reports_deaths(join, registry):
    server, client, keeper = join("inference"), join("rollout", 4), join("keeper")
    server.announce("port")
    client.announce()
    client.knock("inference", 0)
    until(lambda: server.events)
    keeper.report_gone("rollout", 4)
    until(lambda: server.events[-1].what == "gone")


def test_requests_reach_a_role_and_late_comers(join, registry):
    learner, rollout = join("learner"), join("rollout")
    registry.request("learner", "checkpoint")
    registry.request(None, "drain")
    until(lambda: learner.requested == {"checkpoint", "drain"} and rollout.requested == {"drain"})
    late = join("rollout", 9)
    until(lambda: late.requested == {"drain"})


def test_an_operator_asks_the_supervisor_and_the_first_one_counts(join, registry):
    assert registry.asked("stop") == ""
    join("operator", 1).ask("stop", "somebody")
    join("operator", 2).ask("stop", "somebody else")
    assert registry.asked("stop") == "somebody"
    assert registry.asked("checkpoint") == ""
    assert registry.processes() == {}


def test_heartbeats_carry_counters(join, registry):
    rollout = join("rollout", 2)
    rollout.announce()
    rollout.heartbeat({"decisions": 7})
    until(lambda: registry.processes()["rollout", 2].counters == {"decisions": 7})
    assert abs(registry.processes()["rollout", 2].last_heartbeat - time.time()) < 5


def test_client_survives_a_cut_line_and_keeps_its_incarnation(join, registry):
    rollout = join("rollout", 2)
    rollout.announce()
    registry._soon(registry._lines["rollout", 2].writer.transport.abort)
    until(lambda: rollout.disconnected_s > 0)
    until(lambda: rollout.disconnected_s == 0.0)
    assert rollout.announce() == 1
    time.sleep(0.2)
    assert registry.processes()["rollout", 2].alive


def test_garbage_does_not_harm_the_registry(join, registry):
    rollout = join("rollout", 2)
    rollout._send({"op": "tell"})
    until(lambda: rollout.refused)
    assert join("rollout", 3).announce() == 1


def test_places_are_given_out_once_and_behind_those_of_the_training(join):
    assert join("host", 1).places("rollout", 3, least=2) == 2
    assert join("host", 2).places("rollout", 1, least=2) == 5
    assert join("host", 3).places("rollout", 1, least=9) == 9


def test_a_client_that_found_no_registry_gives_up_trying(tmp_path):
    before = set(threading.enumerate())
    with pytest.raises(RegistryTimeout):
        RegistryClient(tmp_path, "host", 0, timeout_s=0.1)
    until(lambda: {t for t in threading.enumerate() if t.name == "registry-client"} <= before)
