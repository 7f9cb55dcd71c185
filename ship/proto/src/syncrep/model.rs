//! Everything against naive models: sort and pick, and lists that are searched whole.

use alloc::vec::Vec;
use proptest::prelude::*;
use std::string::{String, ToString};
use std::vec;

use super::level::{ModeLsns, SyncProgress, SyncState, Synced, WaitMode};
use super::*;
use crate::lsn::Lsn;
use crate::walsender::WalSenderState;

#[derive(Clone, Debug, PartialEq)]
struct Model {
    name: &'static str,
    state: WalSenderState,
    lsns: ModeLsns,
}

fn config(value: &str) -> Option<SyncRepConfig> {
    SyncRepConfig::parse(value).unwrap()
}

fn lsns(write: u64, flush: u64, apply: u64) -> ModeLsns {
    ModeLsns::of_wire(Lsn(write), Lsn(flush), Lsn(apply))
}

fn is_candidate(standby: &Model, priority: u32) -> bool {
    let streams = [WalSenderState::Streaming, WalSenderState::Stopping].contains(&standby.state);
    streams && priority > 0 && standby.lsns.flush.is_some()
}

/// Slots that count, with the whole list of candidates sorted.
fn naive_sync(config: &SyncRepConfig, slots: &[Option<Model>]) -> Vec<usize> {
    let mut sync = vec![];
    for (index, slot) in slots.iter().enumerate() {
        let Some(standby) = slot else { continue };
        let priority = config.priority(standby.name);
        if is_candidate(standby, priority) {
            sync.push((priority, index));
        }
    }
    sync.sort_unstable();
    if config.method == SyncRepMethod::Priority {
        sync.truncate(config.num_sync);
    }
    sync.into_iter().map(|(_, index)| index).collect()
}

/// Roles of the connected ones, and what is reached.
fn naive(
    config: Option<&SyncRepConfig>,
    slots: &[Option<Model>],
) -> (Vec<(u32, SyncState)>, Synced) {
    let connected = || slots.iter().enumerate().filter_map(|(i, s)| Some((i, s.as_ref()?)));
    let Some(config) = config else {
        return (connected().map(|_| (0, SyncState::Async)).collect(), Synced::Undefined);
    };
    let sync = naive_sync(config, slots);
    let role = |(index, standby): (usize, &Model)| {
        let priority = config.priority(standby.name);
        if priority == 0 || standby.lsns.flush.is_none() {
            (0, SyncState::Async)
        } else if !sync.contains(&index) {
            (priority, SyncState::Potential)
        } else if config.method == SyncRepMethod::Priority {
            (priority, SyncState::Sync)
        } else {
            (priority, SyncState::Quorum)
        }
    };
    let roles = connected().map(role).collect();
    if sync.len() < config.num_sync {
        return (roles, Synced::TooFew);
    }
    let reached = |mode| {
        let mut lsns: Vec<_> =
            sync.iter().map(|i| slots[*i].as_ref().unwrap().lsns.of(mode)).collect();
        lsns.sort_unstable_by(|one, other| other.cmp(one));
        lsns[config.num_sync - 1]
    };
    let [write, flush, apply] = WaitMode::ALL.map(reached);
    (roles, Synced::Reached(ModeLsns { write, flush, apply }))
}

fn build(config: Option<SyncRepConfig>, slots: &[Option<Model>]) -> SyncStandbys {
    let mut standbys = SyncStandbys::new(config);
    for (index, slot) in slots.iter().enumerate() {
        let Some(standby) = slot else { continue };
        standbys.handle_connected(index, standby.name);
        standbys.handle_state(index, standby.state);
        standbys.handle_reply(index, standby.lsns);
    }
    standbys
}

fn compare(standbys: &mut SyncStandbys, slots: &[Option<Model>]) {
    let (roles, synced) = naive(standbys.config().cloned().as_ref(), slots);
    assert_eq!(standbys.synced(), synced, "{:?} {slots:?}", standbys.config());
    let connected = (0..slots.len()).filter(|index| slots[*index].is_some());
    let got: Vec<_> = connected.map(|index| standbys.role(index)).collect();
    assert_eq!(got, roles, "{:?} {slots:?}", standbys.config());
}

/// Nobody waits for anyone just when the position is reached, and every name is right.
fn compare_gate(standbys: &mut SyncStandbys, slots: &[Option<Model>], lsn: Lsn) {
    let synced = standbys.synced();
    let Some(config) = standbys.config().cloned() else {
        assert_eq!(standbys.gate(WaitMode::Flush, lsn), None);
        return;
    };
    let sync = naive_sync(&config, slots);
    for mode in WaitMode::ALL {
        let is_reached = match synced {
            Synced::Reached(lsns) => lsns.of(mode) >= Some(lsn),
            Synced::TooFew | Synced::Undefined => false,
        };
        let gate = standbys.gate(mode, lsn).unwrap();
        assert_eq!(gate.missing == 0, is_reached, "{config} {slots:?} {mode:?} {lsn}");
        assert_eq!(gate.standby().is_none(), is_reached);
        let position = |index: &usize| slots[*index].as_ref().unwrap().lsns.of(mode);
        let behind = sync.iter().filter(|index| position(index) < Some(lsn)).count();
        if is_reached {
            assert_eq!(gate, Gate::default());
        } else {
            assert_eq!(gate.behind.len(), behind);
            assert_eq!(gate.missing + sync.len() - behind, config.num_sync);
            let enough = sync.len() >= config.num_sync;
            assert_eq!(gate.unready.is_empty() && gate.absent.is_empty(), enough);
        }
    }
}

/// Calls `f` with every sequence of `len` digits below `base`.
fn all_sequences(base: usize, len: u32, mut f: impl FnMut(&mut dyn Iterator<Item = usize>)) {
    for number in 0..base.pow(len) {
        f(&mut (0..len).map(|place| number / base.pow(place) % base));
    }
}

fn configs(members: &[&str]) -> Vec<SyncRepConfig> {
    let mut all = vec![];
    for method in ["FIRST", "ANY"] {
        for num_sync in 1..=5 {
            for members in members {
                all.extend(config(&std::format!("{method} {num_sync} ({members})")));
            }
        }
    }
    all
}

/// Standbys of which all cases are tried; Miri takes its time.
const TRIED_MAX: u32 = if cfg!(miri) { 1 } else { 5 };

#[test]
fn positions_of_up_to_five_standbys_are_those_of_sort_and_pick() {
    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
    let mut compared = 0;
    for len in 0..=TRIED_MAX {
        // Flush and apply each unknown, 1 or 2; of five standbys each at one of four points.
        let base = if len < 5 { 9 } else { 4 };
        all_sequences(base, len, |digits| {
            let slots: Vec<_> = digits
                .zip(NAMES)
                .map(|(digit, name)| {
                    let digit = digit as u64;
                    let lsns = if base == 9 {
                        lsns(2 - digit % 3 / 2, digit / 3, digit % 3)
                    } else {
                        lsns(digit + 1, digit, digit.saturating_sub(1))
                    };
                    Some(Model { name, state: WalSenderState::Streaming, lsns })
                })
                .collect();
            let mut standbys = build(None, &slots);
            for config in configs(&["e, c, *", "a, b, c, d"]) {
                standbys.handle_config(Some(config));
                compare(&mut standbys, &slots);
                compared += 1;
            }
        });
    }
    let cases = [1, 9, 81, 729, 6561, 1024];
    assert_eq!(compared, 20 * cases.iter().take(1 + TRIED_MAX as usize).sum::<i32>());
}

#[test]
fn roles_of_up_to_five_standbys_are_those_of_sort_and_pick() {
    const NAMES: [&str; 3] = ["a", "B", "x"];
    let one = |slot: usize, digit: usize| {
        let (state, flush) = match digit / 3 {
            0 => (WalSenderState::Catchup, 1),
            1 => (WalSenderState::Streaming, 0),
            2 => (WalSenderState::Streaming, 1 + slot as u64),
            _ => return None,
        };
        Some(Model { name: NAMES[digit % 3], state, lsns: lsns(9, flush, 1) })
    };
    for len in 0..=TRIED_MAX {
        let configs = if len < 5 {
            configs(&["a", "b, A", "x, *"])
        } else {
            vec![config("2 (b, a)").unwrap(), config("ANY 3 (*)").unwrap()]
        };
        all_sequences(10, len, |digits| {
            let slots: Vec<_> = digits.enumerate().map(|(slot, digit)| one(slot, digit)).collect();
            let mut standbys = build(None, &slots);
            for config in &configs {
                standbys.handle_config(Some(config.clone()));
                compare(&mut standbys, &slots);
            }
        });
    }
}

#[derive(Clone, Debug)]
enum Event {
    Connect(usize, &'static str),
    Disconnect(usize),
    State(usize, WalSenderState),
    Reply(usize, ModeLsns),
    Config(&'static str),
    Look(u64),
}

const SLOTS: usize = 12;
const STEPS_MAX: usize = if cfg!(miri) { 60 } else { 1000 };

fn event() -> impl Strategy<Value = Event> {
    let slot = 0..SLOTS;
    let name = prop::sample::select(vec!["s1", "S2", "s2", "s3", "other"]);
    let state = prop::sample::select(vec![
        WalSenderState::Startup,
        WalSenderState::Backup,
        WalSenderState::Catchup,
        WalSenderState::Streaming,
        WalSenderState::Streaming,
        WalSenderState::Stopping,
    ]);
    let config = prop::sample::select(vec![
        "",
        "*",
        "s1, s2",
        "2 (s1, s2, s3)",
        "3 (s3, *)",
        "FIRST 12 (*)",
        "ANY 1 (*)",
        "ANY 2 (s1, s2, s3)",
        "ANY 5 (s2, *)",
        "ANY 12 (*)",
    ]);
    prop_oneof![
        4 => (slot.clone(), name).prop_map(|(slot, name)| Event::Connect(slot, name)),
        1 => slot.clone().prop_map(Event::Disconnect),
        4 => (slot.clone(), state).prop_map(|(slot, state)| Event::State(slot, state)),
        10 => (slot, 0..6_u64, 0..6_u64, 0..6_u64)
            .prop_map(|(slot, write, flush, apply)| Event::Reply(slot, lsns(write, flush, apply))),
        1 => config.prop_map(Event::Config),
        6 => (1..7_u64).prop_map(Event::Look),
    ]
}

const STREAM_SLOTS: usize = 40;
const STREAM_CONFIGS: [&str; 7] =
    ["ANY 20 (*)", "ANY 1 (*)", "ANY 40 (*)", "FIRST 1 (*)", "FIRST 17 (s3, *)", "ANY 9 (s1)", ""];

#[derive(Clone, Debug)]
enum Step {
    Reply { slot: usize, back: u64, behind: [u8; 3] },
    Come(usize),
    Go(usize),
    State(usize, WalSenderState),
    Config(&'static str),
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0..STREAM_SLOTS;
    // Most replies are of the newest position; some of one far behind, which may be a step back.
    let back = prop_oneof![60 => Just(0), 8 => 0..60_u64, 1 => Just(u64::MAX >> 1)];
    let behind = prop::array::uniform3(0..8_u8);
    let state = prop::sample::select(vec![WalSenderState::Catchup, WalSenderState::Streaming]);
    prop_oneof![
        500 => (slot.clone(), back, behind)
            .prop_map(|(slot, back, behind)| Step::Reply { slot, back, behind }),
        3 => slot.clone().prop_map(Step::Come),
        1 => slot.clone().prop_map(Step::Go),
        3 => (slot, state).prop_map(|(slot, state)| Step::State(slot, state)),
        2 => prop::sample::select(STREAM_CONFIGS.to_vec()).prop_map(Step::Config),
        60 => Just(Step::Look),
    ]
}

/// A standby that streams and has said something.
fn stream(standbys: &mut SyncStandbys, slots: &mut [Option<Model>], slot: usize) {
    let (name, lsns) = (["s1", "s2", "s3"][slot % 3], lsns(1, 1, 1));
    standbys.handle_connected(slot, name);
    standbys.handle_state(slot, WalSenderState::Streaming);
    standbys.handle_reply(slot, lsns);
    slots[slot] = Some(Model { name, state: WalSenderState::Streaming, lsns });
}

proptest! {
    #[test]
    fn a_history_of_events_ends_where_a_fresh_look_does(
        events in prop::collection::vec(event(), 0..150)
    ) {
        let mut standbys = SyncStandbys::new(config("ANY 2 (*)"));
        let mut slots: Vec<Option<Model>> = vec![None; SLOTS];
        for event in events {
            match event {
                Event::Connect(slot, name) if slots[slot].is_none() => {
                    standbys.handle_connected(slot, name);
                    let lsns = ModeLsns::default();
                    slots[slot] = Some(Model { name, state: WalSenderState::Startup, lsns });
                }
                Event::Disconnect(slot) if slots[slot].is_some() => {
                    standbys.handle_disconnected(slot);
                    slots[slot] = None;
                }
                Event::State(slot, state) => {
                    let Some(standby) = &mut slots[slot] else { continue };
                    standby.state = state;
                    standbys.handle_state(slot, state);
                }
                Event::Reply(slot, lsns) => {
                    let Some(standby) = &mut slots[slot] else { continue };
                    standby.lsns = lsns;
                    standbys.handle_reply(slot, lsns);
                }
                Event::Config(value) => standbys.handle_config(config(value)),
                Event::Look(lsn) => {
                    compare(&mut standbys, &slots);
                    compare_gate(&mut standbys, &slots, Lsn(lsn));
                }
                Event::Connect(..) | Event::Disconnect(_) => {}
            }
            standbys.check();
        }
        compare(&mut standbys, &slots);
    }

    /// Hundreds of replies between one change of roles and the next: what they add up to is kept
    /// for long, and most of it was never looked at.
    #[test]
    fn a_long_stream_of_replies_ends_where_a_fresh_look_does(
        first in 0..STREAM_CONFIGS.len(),
        steps in prop::collection::vec(step(), 1..STEPS_MAX)
    ) {
        let mut standbys = SyncStandbys::new(config(STREAM_CONFIGS[first]));
        let mut slots: Vec<Option<Model>> = vec![None; STREAM_SLOTS];
        for slot in 0..STREAM_SLOTS {
            stream(&mut standbys, &mut slots, slot);
        }
        let mut last = 1;
        for step in steps {
            match step {
                Step::Reply { slot, back, behind } => {
                    let Some(standby) = &mut slots[slot] else { continue };
                    last += 1;
                    let at = |back: u64| last - back.min(last);
                    let [write, flush, apply] = behind.map(|behind| at(back + u64::from(behind)));
                    standby.lsns = lsns(write, flush, apply);
                    standbys.handle_reply(slot, standby.lsns);
                }
                Step::Come(slot) if slots[slot].is_none() => {
                    stream(&mut standbys, &mut slots, slot);
                }
                Step::Go(slot) if slots[slot].is_some() => {
                    standbys.handle_disconnected(slot);
                    slots[slot] = None;
                }
                Step::State(slot, state) => {
                    let Some(standby) = &mut slots[slot] else { continue };
                    standby.state = state;
                    standbys.handle_state(slot, state);
                }
                Step::Config(value) => standbys.handle_config(config(value)),
                Step::Look => {
                    let (_, synced) = naive(standbys.config(), &slots);
                    prop_assert_eq!(standbys.synced(), synced);
                    standbys.check();
                }
                Step::Come(_) | Step::Go(_) => {}
            }
        }
        standbys.check();
        compare(&mut standbys, &slots);
    }

    #[test]
    fn a_relay_never_takes_back_and_never_tells_more_than_was_so_at_once(
        steps in prop::collection::vec((0..9_u64, 0..9_u64, 0..12_u64, 0..4_u8), 1..40)
    ) {
        let mut policy = RelayPolicy::new();
        let mut best = RelayReply::default();
        for (write, flush, synced, kind) in steps {
            let (write, flush) = (write.max(flush), flush);
            let (synced, now) = match kind {
                0 => (Synced::TooFew, [0, 0, 0]),
                1 => (Synced::Undefined, [write, flush, 0]),
                _ => {
                    let [w, f, a] = [synced, synced / 2, synced / 3];
                    let now = [w.min(write), f.min(flush), a.min(flush)];
                    (Synced::Reached(lsns(w, f, a)), now)
                }
            };
            let [write_now, flush_now, apply_now] = now.map(Lsn);
            best.write = best.write.max(write_now);
            best.flush = best.flush.max(flush_now);
            best.apply = best.apply.max(apply_now);
            prop_assert_eq!(policy.reply(Lsn(write), Lsn(flush), synced), best);
        }
    }
}

#[test]
fn a_potential_standby_takes_over_and_the_log_hears_of_it_once() {
    let mut standbys = SyncStandbys::new(config("1 (a, b)"));
    let streaming = |standbys: &mut SyncStandbys, index, name, lsn| {
        standbys.handle_connected(index, name);
        standbys.handle_state(index, WalSenderState::Streaming);
        standbys.handle_reply(index, lsns(lsn, lsn, lsn));
    };
    streaming(&mut standbys, 0, "b", 50);
    let next = |standbys: &mut SyncStandbys| standbys.poll_takeover().map(|t| t.to_string());
    let told = "standby \"b\" is now a synchronous standby with priority 2";
    assert_eq!(next(&mut standbys).as_deref(), Some(told));
    streaming(&mut standbys, 1, "A", 100);
    let told = "standby \"A\" is now a synchronous standby with priority 1";
    assert_eq!(next(&mut standbys).as_deref(), Some(told));
    assert_eq!(standbys.role(0), (2, SyncState::Potential));
    assert_eq!(standbys.synced(), Synced::Reached(lsns(100, 100, 100)));
    standbys.handle_disconnected(1);
    assert_eq!(standbys.synced(), Synced::Reached(lsns(50, 50, 50)));
    let told = "standby \"b\" is now a synchronous standby with priority 2";
    assert_eq!(next(&mut standbys).as_deref(), Some(told));
    standbys.handle_config(config("ANY 2 (a, b)"));
    assert_eq!((standbys.synced(), next(&mut standbys)), (Synced::TooFew, None));
    streaming(&mut standbys, 1, "a", 7);
    let told = "standby \"a\" is now a candidate for quorum synchronous standby";
    assert_eq!(next(&mut standbys).as_deref(), Some(told));
    assert_eq!(standbys.role(1), (1, SyncState::Quorum));
    assert_eq!(next(&mut standbys), None);
}

#[test]
fn a_gate_names_who_is_behind_and_who_is_not_there() {
    let standby = |name, state, lsn| Some(Model { name, state, lsns: lsns(lsn, lsn, 0) });
    let mut slots = vec![
        standby("a", WalSenderState::Streaming, 10),
        standby("b", WalSenderState::Streaming, 30),
        standby("c", WalSenderState::Streaming, 20),
        standby("d", WalSenderState::Catchup, 90),
    ];
    let gate = |value: &str, slots: &[Option<Model>], mode, lsn| {
        let mut standbys = build(config(value), slots);
        let gate = standbys.gate(mode, Lsn(lsn)).unwrap();
        (gate.to_string(), gate.standby().map(String::from))
    };
    let is = |text: &str, standby: &str| (text.to_string(), Some(standby.to_string()));
    let flush = WaitMode::Flush;
    assert_eq!(gate("ANY 1 (*)", &slots, flush, 25), ("no standby".to_string(), None));
    assert_eq!(gate("ANY 2 (*)", &slots, flush, 25), is("1 of \"c\", \"a\"", "c"));
    assert_eq!(gate("2 (a, b, c)", &slots, flush, 25), is("\"a\"", "a"));
    assert_eq!(gate("3 (*)", &slots, flush, 40), is("\"b\", \"c\", \"a\"", "a"));
    assert_eq!(gate("ANY 1 (a, b)", &slots, WaitMode::Apply, 1), is("1 of \"b\", \"a\"", "b"));
    slots[1] = None;
    assert_eq!(
        gate("3 (a, b, d)", &slots, flush, 5),
        is("\"d\" (not ready), \"b\" (not connected)", "b")
    );
}

/// A wait of the model: what it is for, and in which order it began.
#[derive(Clone, Debug, PartialEq)]
struct Waiting {
    level: WaitLevel,
    lsn: Lsn,
    id: usize,
    ticket: WaitTicket,
}

#[derive(Clone, Debug)]
enum Op {
    Wait(WaitLevel, u64),
    Cancel(usize),
    Flushed(u64),
    Synced(SyncProgress),
    Release,
    CancelAll,
}

fn op() -> impl Strategy<Value = Op> {
    let level = prop::sample::select(vec![
        WaitLevel::LocalFlush,
        WaitLevel::Standbys(WaitMode::Write),
        WaitLevel::Standbys(WaitMode::Flush),
        WaitLevel::Standbys(WaitMode::Apply),
    ]);
    let reached = (0..100_u64, 0..100_u64, 0..100_u64);
    // Now and then the timeline is another one, or a late word of an earlier one comes.
    let progress = |generation, synced| Op::Synced(SyncProgress { generation, synced });
    prop_oneof![
        16 => (level, 0..100_u64).prop_map(|(level, lsn)| Op::Wait(level, lsn)),
        6 => any::<usize>().prop_map(Op::Cancel),
        1 => (0..100_u64).prop_map(Op::Flushed),
        2 => (reached, 0..4_u64).prop_map(move |((w, f, a), generation)| {
            progress(generation, Synced::Reached(lsns(w, f, a)))
        }),
        1 => (0..4_u64).prop_map(move |generation| progress(generation, Synced::TooFew)),
        1 => (0..4_u64).prop_map(move |generation| progress(generation, Synced::Undefined)),
        2 => Just(Op::Release),
        1 => prop::bool::weighted(0.1).prop_map(|all| if all { Op::CancelAll } else { Op::Release }),
    ]
}

const WAITERS_MAX: usize = 24;

proptest! {
    #[test]
    fn waiters_are_those_of_a_list_that_is_searched_whole(
        ops in prop::collection::vec(op(), 0..300)
    ) {
        let mut waiters = CommitWaiters::new(Lsn(5), WAITERS_MAX);
        let mut list: Vec<Waiting> = vec![];
        let (mut flushed, mut reached, mut defined, mut newest) = (5, [0; 3], false, 0);
        for (id, op) in ops.into_iter().enumerate() {
            let limit = |level: WaitLevel| match level {
                WaitLevel::Standbys(mode) if defined => reached[mode as usize].min(flushed),
                _ => flushed,
            };
            match op {
                Op::Wait(level, lsn) => match waiters.wait(level, Lsn(lsn), id) {
                    Ok(Wait::Done) => prop_assert!(lsn <= limit(level)),
                    Ok(Wait::Pending(ticket)) => {
                        prop_assert!(lsn > limit(level) && list.len() < WAITERS_MAX);
                        prop_assert_eq!((ticket.level(), ticket.lsn()), (level, Lsn(lsn)));
                        list.push(Waiting { level, lsn: Lsn(lsn), id, ticket });
                    }
                    Err(WaitersFull) => prop_assert_eq!(list.len(), WAITERS_MAX),
                },
                Op::Cancel(at) if !list.is_empty() => {
                    let waiting = list.remove(at % list.len());
                    prop_assert_eq!(waiters.cancel(waiting.ticket), Some(waiting.id));
                    prop_assert_eq!(waiters.cancel(waiting.ticket), None);
                }
                Op::Cancel(_) => {}
                Op::Flushed(lsn) => {
                    flushed = flushed.max(lsn);
                    waiters.handle_flushed(Lsn(lsn));
                }
                Op::Synced(progress) if progress.generation < newest => {
                    waiters.handle_synced(progress);
                }
                Op::Synced(progress) => {
                    let SyncProgress { generation, synced } = progress;
                    if generation > newest {
                        (newest, reached) = (generation, [0; 3]);
                    }
                    defined = synced != Synced::Undefined;
                    if let Synced::Reached(lsns) = synced {
                        for mode in WaitMode::ALL {
                            let lsn = lsns.of(mode).unwrap_or_default().0;
                            reached[mode as usize] = reached[mode as usize].max(lsn);
                        }
                    }
                    waiters.handle_synced(progress);
                }
                Op::Release => {
                    list.sort_by_key(|waiting| (waiting.level, waiting.lsn, waiting.id));
                    let is_reached = |waiting: &Waiting| waiting.lsn.0 <= limit(waiting.level);
                    let want: Vec<_> = list.iter().filter(|w| is_reached(w)).cloned().collect();
                    list.retain(|waiting| !is_reached(waiting));
                    for Waiting { level, lsn, id, ticket } in want {
                        prop_assert_eq!(waiters.poll_released(), Some(Released { id, level, lsn }));
                        prop_assert_eq!(waiters.cancel(ticket), None);
                    }
                    prop_assert_eq!(waiters.poll_released(), None);
                }
                Op::CancelAll => {
                    list.sort_by_key(|waiting| (waiting.level, waiting.lsn, waiting.id));
                    for Waiting { level, lsn, id, .. } in list.drain(..) {
                        prop_assert_eq!(waiters.cancel_next(), Some(Released { id, level, lsn }));
                    }
                    prop_assert_eq!(waiters.cancel_next(), None);
                }
            }
            waiters.check();
            prop_assert_eq!(waiters.len(), list.len());
            prop_assert_eq!(waiters.is_empty(), list.is_empty());
            prop_assert_eq!(waiters.iter().count(), list.len());
        }
    }
}

/// Progress of the first generation.
fn first(synced: Synced) -> SyncProgress {
    SyncProgress { generation: 0, synced }
}

#[test]
fn what_standbys_reached_on_the_old_timeline_releases_nobody_on_the_new_one() {
    let mut waiters = CommitWaiters::new(Lsn(10), 9);
    // A relay's standby is ahead of it; somebody waits for something, and so it is noted.
    waiters.handle_synced(first(Synced::Reached(lsns(90, 90, 90))));
    // The relay becomes the primary: its timeline begins at 10, and no standby is on it.
    waiters.handle_synced(SyncProgress { generation: 1, synced: Synced::TooFew });
    waiters.handle_flushed(Lsn(20));
    let level = WaitLevel::of_commit(SynchronousCommit::On).unwrap();
    assert_eq!(waiters.released_lsn(level), None);
    assert!(matches!(waiters.wait(level, Lsn(20), 'a'), Ok(Wait::Pending(_))));
    // What was read before all that comes late.
    waiters.handle_synced(first(Synced::Reached(lsns(95, 95, 95))));
    assert_eq!(waiters.poll_released(), None);
    let synced = Synced::Reached(lsns(20, 20, 0));
    waiters.handle_synced(SyncProgress { generation: 1, synced });
    assert_eq!(waiters.poll_released(), Some(Released { id: 'a', level, lsn: Lsn(20) }));
}

#[test]
fn a_fast_standby_releases_nobody_before_the_own_disk() {
    let mut waiters = CommitWaiters::new(Lsn(10), 9);
    waiters.handle_synced(first(Synced::TooFew));
    let level = WaitLevel::of_commit(SynchronousCommit::On).unwrap();
    assert!(matches!(waiters.wait(level, Lsn(20), 'a'), Ok(Wait::Pending(_))));
    waiters.handle_synced(first(Synced::Reached(lsns(30, 30, 30))));
    assert_eq!(waiters.poll_released(), None);
    waiters.handle_flushed(Lsn(20));
    assert_eq!(waiters.poll_released(), Some(Released { id: 'a', level, lsn: Lsn(20) }));
}

#[test]
fn an_empty_list_leaves_only_the_own_disk_to_wait_for() {
    let mut waiters = CommitWaiters::new(Lsn(10), 9);
    waiters.handle_synced(first(Synced::TooFew));
    let level = WaitLevel::of_commit(SynchronousCommit::RemoteApply).unwrap();
    assert!(matches!(waiters.wait(level, Lsn(10), 'a'), Ok(Wait::Pending(_))));
    assert!(matches!(waiters.wait(level, Lsn(20), 'b'), Ok(Wait::Pending(_))));
    waiters.handle_synced(first(Synced::Undefined));
    assert_eq!(waiters.poll_released(), Some(Released { id: 'a', level, lsn: Lsn(10) }));
    assert_eq!(waiters.poll_released(), None);
    // What was released by that was not reached by any standby.
    waiters.handle_synced(first(Synced::TooFew));
    assert!(matches!(waiters.wait(level, Lsn(9), 'c'), Ok(Wait::Pending(_))));
    assert_eq!(WaitLevel::of_commit(SynchronousCommit::Off), None);
    assert_eq!(WaitLevel::of_commit(SynchronousCommit::Local), Some(WaitLevel::LocalFlush));
}

#[test]
fn cancelled_waiters_do_not_pile_up() {
    let mut waiters = CommitWaiters::new(Lsn(0), 10);
    waiters.handle_synced(first(Synced::TooFew));
    let level = WaitLevel::Standbys(WaitMode::Flush);
    let Ok(Wait::Pending(_)) = waiters.wait(level, Lsn(1), 0) else { panic!("first") };
    for id in 1..1000 {
        let Ok(Wait::Pending(ticket)) = waiters.wait(level, Lsn(id), id) else { panic!("{id}") };
        assert_eq!(waiters.cancel(ticket), Some(id));
        waiters.check();
    }
    assert_eq!(waiters.len(), 1);
}
