"""The wake-up protocol of `ext/live.h`, state by state.

One writer publishes several times, two followers sleep until they have seen everything. A step is one access to the
memory or one system call. Stores wait in a buffer of their thread until a fence, a locked instruction or the processor
drains it, as on x86 (TSO). Sleeps have no timeout here. Every state that can be reached is visited, from every value
that an earlier writer or follower may have left in `armed`. No state may have a follower asleep at a position that
is not WriteOffset while the writer has nothing more to do, and from every state the end must be reachable at which each
follower has seen all events.

Each mutation leaves one step of the protocol out. The model says of each whether a wake-up is lost.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .harness import Context

FIRST = 1  # WriteOffset at the start; the page of a new writer has 0 in `armed`
NOTHING = -1


class Protocol(NamedTuple):
    """What is left out, and what the processor may do."""

    writer_fence: bool = True
    follower_fence: bool = True
    recheck: bool = True  # WriteOffset is looked at after arming
    compare: bool = True  # the kernel looks at WriteOffset before the follower sleeps
    arms: bool = True
    locked: bool = True  # `armed` is raised by a locked instruction, not by a load and a store
    raises: bool = True  # `armed` never becomes lower because of a follower
    wakes_all: bool = True
    lowers_to_new: bool = True  # a value of `armed` that is too high becomes WriteOffset, not WriteOffset before
    hoists: bool = False  # a load may be done before an earlier locked instruction, as on ARM
    one: bool = False  # there is one follower


class Writer(NamedTuple):
    """Where the writer is."""

    step: str = "publish"
    offset: int = FIRST
    register: int = 0
    buffer: int = NOTHING  # the store of WriteOffset that is not in memory yet


class Follower(NamedTuple):
    """Where a follower is."""

    step: str = "look"
    position: int = FIRST
    register: int = 0
    early: int = NOTHING  # WriteOffset, looked at too early
    buffer: int = NOTHING  # the store of `armed` that is not in memory yet


class State(NamedTuple):
    """The memory and all threads. Followers are alike, so they are sorted."""

    offset: int
    armed: int
    writer: Writer
    followers: tuple[Follower, ...]


MUTATIONS: dict[str, tuple[Protocol, bool]] = {
    "no fence of the writer": (Protocol(writer_fence=False), True),
    # What the follower stores is in memory when the kernel compares, because of the lock of the futex. So its fence
    # and its re-check save a system call, and matter only where the kernel does not compare.
    "no fence of the follower": (Protocol(follower_fence=False), False),
    "no fence of the follower, loads overtake": (Protocol(follower_fence=False, hoists=True), False),
    "no fence and no lock of the follower": (Protocol(follower_fence=False, locked=False, one=True), False),
    "no fence and no compare, loads overtake": (Protocol(follower_fence=False, hoists=True, compare=False), True),
    "no re-check": (Protocol(recheck=False), False),
    "no compare in the kernel": (Protocol(compare=False), True),
    "no re-check and no compare": (Protocol(recheck=False, compare=False), True),
    "no arming": (Protocol(arms=False), True),
    "a plain store, with a fence": (Protocol(locked=False), True),
    "armed is set, not raised": (Protocol(raises=False), True),
    "one follower is woken": (Protocol(wakes_all=False), True),
    "armed is lowered to the offset before": (Protocol(lowers_to_new=False), True),
}


def run(ctx: Context) -> None:
    """The protocol as it is, then each mutation."""
    publishes = ctx.scale(2, 5)
    for name, protocol in (("as it is", Protocol()), ("as it is, loads overtake", Protocol(hoists=True))):
        states, wrong = explore(protocol, publishes)
        ctx.figures[f"states, {name}"] = states
        if wrong:
            ctx.violation("a wake-up is lost", f"{name}: {wrong}")
    for name, (protocol, loses) in MUTATIONS.items():
        states, wrong = explore(protocol, publishes)
        ctx.figures[name] = f"{'loses a wake-up' if wrong else 'loses none'}, {states:,} states"
        if bool(wrong) != loses:
            ctx.violation("a mutation is not judged right", f"{name}: {wrong or 'loses none'}")


def explore(protocol: Protocol, publishes: int) -> tuple[int, str]:
    """The number of states, and the first that must not be; empty if there is none."""
    last = FIRST + publishes
    followers = (Follower(),) * (1 if protocol.one else 2)
    starts = [State(FIRST, armed, Writer(), followers) for armed in range(last + 2)]
    before: dict[State, list[State]] = {state: [] for state in starts}
    queue, ends = deque(starts), []
    while queue:
        state = queue.popleft()
        if lost(state):
            return len(before), f"asleep although there is more: {state}"
        following = list(successors(state, protocol, last))
        if not following:
            if any(follower.position != last for follower in state.followers):
                return len(before), f"stuck: {state}"
            ends.append(state)
        for after in following:
            if after not in before:
                before[after] = []
                queue.append(after)
            before[after].append(state)
    reached, open_ = set(ends), deque(ends)
    while open_:
        for state in before[open_.popleft()]:
            if state not in reached:
                reached.add(state)
                open_.append(state)
    stray = next((state for state in before if state not in reached), None)
    return len(before), "" if stray is None else f"never ends: {stray}"


def lost(state: State) -> bool:
    """Whether a follower sleeps for good."""
    return state.writer.step == "done" and any(
        follower.step == "asleep" and follower.position != state.offset for follower in state.followers
    )


def successors(state: State, protocol: Protocol, last: int) -> Iterator[State]:
    """The states after one step of one thread, or of its store buffer."""
    writer = state.writer
    if writer.buffer != NOTHING:
        yield state._replace(offset=writer.buffer, writer=writer._replace(buffer=NOTHING))
    yield from write(state, protocol, last)
    for place, follower in enumerate(state.followers):
        if follower.buffer != NOTHING:
            yield replaced(state._replace(armed=follower.buffer), place, follower._replace(buffer=NOTHING))
        yield from follow(state, protocol, place, follower, last)


def write(state: State, protocol: Protocol, last: int) -> Iterator[State]:
    """One step of `evtape_publish` and `evtape_live_ring`."""
    writer = state.writer
    drained = state._replace(offset=max(state.offset, writer.buffer))  # offsets only grow
    new = writer.offset + 1
    then = writer._replace(buffer=NOTHING)
    match writer.step:
        case "publish":
            if writer.buffer == NOTHING:  # one store in the buffer is enough: the next would hide it
                yield state._replace(writer=writer._replace(step="fence", buffer=new))
        case "fence":
            if protocol.writer_fence:
                yield drained._replace(writer=then._replace(step="load"))
            else:
                yield state._replace(writer=writer._replace(step="load"))
        case "load":
            armed = state.armed >= writer.offset
            yield state._replace(writer=writer._replace(step="wake") if armed else passed(state, last))
        case "wake":  # the lock of the futex drains the buffer
            asleep = [place for place, follower in enumerate(state.followers) if follower.step == "asleep"]
            woken = [asleep] if protocol.wakes_all or not asleep else [[place] for place in asleep]
            for chosen in woken:
                after = drained._replace(writer=then._replace(step="load again"))
                followers = [
                    follower._replace(step="look") if place in chosen else follower
                    for place, follower in enumerate(state.followers)
                ]
                yield after._replace(followers=tuple(sorted(followers)))
        case "load again":
            if state.armed > new:
                yield state._replace(writer=writer._replace(step="lower", register=state.armed))
            else:
                yield state._replace(writer=passed(state, last))
        case "lower":
            hit = state.armed == writer.register
            lower = new if protocol.lowers_to_new else writer.offset
            yield state._replace(armed=lower if hit else state.armed, writer=passed(state, last))


def passed(state: State, last: int) -> Writer:
    """The writer after a publish."""
    offset = state.writer.offset + 1
    if offset < last:
        return Writer("publish", offset, 0, state.writer.buffer)
    # At the end the buffer is drained at some time, by itself.
    return Writer("done", offset, 0, state.writer.buffer)


def follow(state: State, protocol: Protocol, place: int, follower: Follower, last: int) -> Iterator[State]:
    """One step of `evtape_live_wait`, or the delivery of what is published."""
    position = follower.position
    armed = state.armed if follower.buffer == NOTHING else follower.buffer  # a thread sees its own stores
    drained = state if follower.buffer == NOTHING else state._replace(armed=follower.buffer)
    clean = follower._replace(buffer=NOTHING)
    match follower.step:
        case "look":
            if state.offset != position:
                ended = "done" if state.offset == last else "look"
                yield replaced(state, place, Follower(ended, state.offset, 0, NOTHING, follower.buffer))
            else:
                yield replaced(state, place, follower._replace(step="load armed" if protocol.arms else "re-check"))
        case "load armed":
            enough = armed >= position if protocol.raises else armed == position
            yield replaced(state, place, follower._replace(step="fence" if enough else "raise", register=armed))
            if protocol.hoists and not protocol.follower_fence and follower.early == NOTHING:
                yield replaced(state, place, follower._replace(early=state.offset))
        case "raise":
            if not protocol.locked:
                yield replaced(state, place, follower._replace(step="fence", buffer=position, register=0))
            elif drained.armed == follower.register:
                after = drained._replace(armed=position)
                yield replaced(after, place, clean._replace(step="fence", register=0))
            else:
                yield replaced(drained, place, clean._replace(step="load armed", register=0))
            if protocol.hoists and not protocol.follower_fence and follower.early == NOTHING:
                yield replaced(state, place, follower._replace(early=state.offset))
        case "fence":
            after = follower._replace(step="re-check" if protocol.recheck else "sleep", register=0)
            if protocol.follower_fence:
                yield replaced(drained, place, after._replace(buffer=NOTHING))
            else:
                yield replaced(state, place, after)
        case "re-check":
            offset = state.offset if follower.early == NOTHING else follower.early
            step = "sleep" if offset == position else "look"
            yield replaced(state, place, follower._replace(step=step, early=NOTHING))
        case "sleep":  # under the lock of the futex, which drains the buffer
            asleep = not protocol.compare or state.offset == position
            yield replaced(drained, place, clean._replace(step="asleep" if asleep else "look"))


def replaced(state: State, place: int, follower: Follower) -> State:
    """The state with another follower in its place."""
    followers = list(state.followers)
    followers[place] = follower
    return state._replace(followers=tuple(sorted(followers)))
