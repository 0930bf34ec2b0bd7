"""A listener without a connection: when it connects, when it requests the live route, and which gaps it reports."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.network.listener import Listener

ONE, TWO = ("wss://one/",), ("wss://one/", "wss://two/")
IDLE = 300.0


def listening(addresses: tuple[str, ...] = ONE) -> Listener:
    """Return a listener that starts at 0."""
    return Listener(addresses, 0.5, IDLE, 0.0)


def fill(listener: Listener, now: float, unheard: int = 0) -> None:
    """Ask the live route, which answers at once."""
    listener.fills.began(now)
    listener.filled(unheard)


def connected(listener: Listener, now: float) -> None:
    """Connect, and fill the gap before."""
    listener.connected(now)
    fill(listener, now + 1)


def test_a_run_that_is_connected_and_has_asked_misses_nothing() -> None:
    listener = listening()
    assert listener.missed(1, stopped=True)
    listener.connected(1)
    missed = listener.missed(2, stopped=False)
    assert missed
    assert (missed.since, missed.until, missed.reason) == (0, 2, "the live route was not asked")
    fill(listener, 2)
    # A silent server is trusted.
    assert listener.missed(200, stopped=True) is None
    missed = listener.missed(200, stopped=False)
    assert missed
    assert missed.since == 2
    listener.heard(250)
    assert listener.missed(500, stopped=True) is None
    fill(listener, 500)
    assert listener.missed(500, stopped=False) is None


def test_a_dropped_connection_is_a_gap_until_it_is_filled() -> None:
    listener = listening()
    connected(listener, 0)
    listener.heard(10)
    listener.lost(20, 1.0, "closed")
    missed = listener.missed(21, stopped=True)
    assert missed
    assert (missed.since, missed.reason) == (10, "closed")
    listener.connected(22)
    missed = listener.missed(23, stopped=True)
    assert missed
    assert (missed.since, missed.reason) == (10, "the live route was not asked after this: closed")
    # Before the subscription was read: this proves nothing about the time after it.
    fill(listener, 22.1)
    assert listener.missed(23, stopped=True)
    fill(listener, 22.6)
    assert listener.missed(23, stopped=True) is None


def test_connections_do_not_delay_a_fill_that_is_due() -> None:
    listener = listening()
    for tenth in range(10):
        now = tenth / 10
        assert listener.fills.is_due(now) == (tenth >= 5)
        listener.connected(now)
        listener.lost(now, 0.0, "closed")
    assert listener.fills.is_due(0.9)
    listener.fills.began(0.9)
    # The last connection may not have notified of anything yet, so another one after this one.
    assert not listener.fills.is_due(2)
    listener.filled(0)
    assert listener.fills.is_due(2)


def test_the_live_route_is_asked_now_and_then_while_there_is_no_connection() -> None:
    listener = listening()
    assert not listener.fills.is_due(1)
    listener.lost(1, 1.0, "refused")
    assert listener.fills.is_due(1)
    fill(listener, 1)
    for now in (10, 100, 200):
        listener.lost(now, 1.0, "refused")
        assert not listener.fills.is_due(now)
    assert listener.fills.is_due(1 + IDLE)
    missed = listener.missed(250, stopped=True)
    assert missed
    assert (missed.since, missed.reason) == (0, "refused")


def test_a_failed_fill_is_a_gap_until_one_succeeds() -> None:
    listener = listening()
    listener.connected(0)
    listener.fills.began(1)
    listener.fills.failed(2, "HTTP 500")
    listener.heard(3)
    missed = listener.missed(4, stopped=True)
    assert missed
    assert missed.reason == "channels that went live without a notification may be missing: HTTP 500"
    assert not listener.fills.is_due(31)
    assert listener.fills.is_due(32)
    fill(listener, 32)
    assert listener.missed(33, stopped=True) is None


def test_silence_is_trusted_for_the_idle_time_out_only() -> None:
    listener = listening()
    connected(listener, 0)
    assert not listener.is_idle(299)
    assert listener.is_idle(300)
    listener.closed(300, 0.0)
    assert listener.missed(302, stopped=True) is None
    # It should be connected again by now.
    assert listener.missed(304, stopped=True)
    listener.connected(310)
    assert listener.missed(310, stopped=True)
    fill(listener, 311)
    assert listener.missed(400, stopped=True) is None


def test_a_connection_that_was_silent_while_channels_went_live_is_a_gap() -> None:
    listener = listening()
    connected(listener, 0)
    listener.closed(300, 0.0)
    listener.connected(300)
    fill(listener, 301, unheard=2)
    missed = listener.missed(310, stopped=True)
    assert missed
    assert (missed.since, missed.reason) == (301, "channels went live without a notification while it was connected")
    listener.heard(320)
    assert listener.missed(330, stopped=True) is None


def test_a_server_that_refuses_all_is_reported_with_its_own_message() -> None:
    listener = listening()
    for now in (0.0, 5.0):
        listener.connected(now)
        listener.refused(now + 0.1, "unauthorized")
        fill(listener, now + 1)
        missed = listener.missed(now + 4, stopped=False)
        assert missed
        assert (missed.since, missed.reason) == (0, "no connection was of use, the last one: unauthorized")
        listener.lost(now + 4, 0.0, "closed")
    # This wait is shorter than for a server that may have no notification.
    listener.connected(10)
    listener.refused(10, "unauthorized")
    assert not listener.is_idle(39)
    assert listener.is_idle(40)
    listener.closed(40, 0.0)
    assert listener.reason == "unauthorized"
    # A lasting connection resets the waits.
    connected(listener, 50)
    assert listener.missed(51, stopped=True)
    assert listener.missed(55, stopped=True) is None


def test_one_short_failure_of_a_good_server_is_no_gap() -> None:
    listener = listening()
    connected(listener, 0)
    listener.heard(2)
    listener.refused(3, "internal")
    assert listener.missed(4, stopped=True) is None


def test_waits_grow_until_a_notification_or_a_lasting_connection() -> None:
    listener = listening()
    waits = []
    for _ in range(8):
        listener.connected(0)
        listener.refused(0, "unauthorized")
        waits.append(listener.lost(1, 1.0, "closed"))
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 32]
    assert listener.lost(1, 0.0, "HTTP 429", retry_after=20) == 20
    listener.connected(100)
    assert listener.lost(131, 1.0, "closed") == 0.5
    assert listener.lost(131, 1.0, "refused") == 1
    listener.connected(140)
    listener.heard(141)
    assert listener.lost(142, 1.0, "closed") == 0.5


def test_addresses_are_tried_in_order_and_the_first_one_again_after_a_while() -> None:
    listener = listening(TWO)
    assert listener.address == TWO[0]
    assert listener.lost(0, 1.0, "refused") == 0
    assert listener.address == TWO[1]
    # After the last one it waits.
    assert listener.lost(0, 1.0, "refused") == 0.5
    assert listener.address == TWO[0]
    listener.lost(1, 1.0, "HTTP 404")
    assert listener.connected(1) == (TWO[0], "HTTP 404")
    listener.heard(2)
    assert listener.lost(3, 1.0, "closed") == 0.5
    assert listener.address == TWO[1]
    assert listener.connected(4) is None
    listener.heard(5)
    listener.lost(700, 1.0, "closed")
    assert listener.address == TWO[0]
    assert listener.connected(701) == (TWO[1], "closed")


class Simulation:
    """A connection that may be dead, and streams that go live at the same time."""

    def __init__(self) -> None:
        self.listener = listening()
        self.now = 0.0
        self.is_open = self.is_alive = False
        # When they went live, and those of them that are not known yet.
        self.untold: set[float] = set()

    def play(self, event: str, seconds: float) -> None:
        """Let time pass, and something happen."""
        self.now += seconds
        if self.is_open and self.listener.is_idle(self.now):
            self.listener.closed(self.now, 0.0)
            self.is_open = False
        getattr(self, event)()

    def connect(self) -> None:
        if not self.is_open:
            self.listener.connected(self.now)
            self.is_open = self.is_alive = True

    def lose(self) -> None:
        self.listener.lost(self.now, 0.0, "closed")
        self.is_open = False

    def die(self) -> None:
        self.is_alive = False

    def refuse(self) -> None:
        if self.is_open and self.is_alive:
            self.listener.refused(self.now, "unauthorized")

    def stream(self) -> None:
        if self.is_open and self.is_alive:
            self.listener.heard(self.now)
        else:
            self.untold.add(self.now)

    def fill(self) -> None:
        fill(self.listener, self.now, len(self.untold))
        self.untold.clear()

    def fail(self) -> None:
        self.listener.fills.began(self.now)
        self.listener.fills.failed(self.now, "HTTP 500")


EVENTS = st.tuples(
    st.sampled_from(["connect", "lose", "die", "refuse", "stream", "stream", "fill", "fill", "fail"]),
    st.floats(0.01, 200),
)


@given(st.lists(EVENTS, max_size=40), st.booleans())
def test_complete_is_reported_only_if_every_stream_was_heard_or_asked_for(
    events: list[tuple[str, float]], stopped: bool
) -> None:
    simulation = Simulation()
    for event, seconds in events:
        simulation.play(event, seconds)
    now, missed = simulation.now, simulation.listener.missed(simulation.now, stopped=stopped)
    # At a signal, silence is trusted for so long.
    since = missed.since if missed else now - (IDLE + 3 if stopped else 0)
    assert all(moment >= since for moment in simulation.untold)
    if missed is None:
        assert simulation.is_open or stopped
