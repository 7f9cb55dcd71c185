//! Every interleaving of what threads do without a lock, by the model checker loom.
//!
//! The modules under test are compiled a second time here, over loom's atomics. Each model must be
//! able to fail: the comments say which fence or ordering it is that may not be taken away.

use loom::model;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use walhub_proto::lsn::Lsn;
use walhub_proto::syncrep::{ModeLsns, Synced};

use self::commit_wakeups::CommitWakeups;
use self::dirty::DirtyBits;
use self::in_transit::{InTransit, Reservation};
use self::synced::PublishedSynced;

mod atomics {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
}

#[path = "in_transit.rs"]
#[allow(clippy::duplicate_mod, unreachable_pub, reason = "compiled once more, for the model")]
mod in_transit;

#[path = "commit_wakeups.rs"]
#[allow(clippy::duplicate_mod, unreachable_pub, reason = "compiled once more, for the model")]
mod commit_wakeups;
#[path = "dirty.rs"]
#[allow(clippy::duplicate_mod, unreachable_pub, reason = "compiled once more, for the model")]
mod dirty;
#[path = "synced.rs"]
#[allow(clippy::duplicate_mod, unreachable_pub, reason = "compiled once more, for the model")]
mod synced;

/// A position, how often the control plane was told to look, and who waits.
#[derive(Default)]
struct Told {
    commit_wakeups: CommitWakeups,
    flush_lsn: AtomicU64,
    tells: AtomicU64,
}

impl Told {
    /// The wal core's side of a flush.
    fn publish(&self, lsn: u64) {
        self.flush_lsn.store(lsn, Ordering::Release);
        if self.commit_wakeups.must_tell() {
            self.tells.fetch_add(1, Ordering::Release);
        }
    }

    /// The control plane takes its mail; whether there was any.
    fn is_told(&self) -> bool {
        self.tells.swap(0, Ordering::Acquire) > 0
    }

    fn look(&self) -> u64 {
        self.commit_wakeups.begin_look();
        self.flush_lsn.load(Ordering::Acquire)
    }
}

/// Fails without the fence of `begin`, or of `must_tell`.
#[test]
fn who_begins_to_wait_sees_the_position_or_is_told() {
    model(|| {
        let told = Arc::new(Told::default());
        let core = Arc::clone(&told);
        let core = thread::spawn(move || core.publish(1));
        told.commit_wakeups.begin();
        let seen = told.flush_lsn.load(Ordering::Acquire);
        core.join().unwrap();
        assert!(seen == 1 || told.is_told() && told.look() == 1, "waits for ever");
    });
}

/// Fails without the fence of `begin_look`, or when the look begins with the positions.
#[test]
fn what_moves_during_a_look_is_seen_by_it_or_told_again() {
    model(|| {
        let told = Arc::new(Told::default());
        told.commit_wakeups.begin();
        let core = Arc::clone(&told);
        let core = thread::spawn(move || {
            core.publish(1);
            core.publish(2);
        });
        let mut seen = 0;
        if told.is_told() {
            seen = told.look();
        }
        core.join().unwrap();
        while seen < 2 {
            assert!(told.is_told(), "waits for ever at {seen}");
            seen = told.look();
        }
    });
}

/// The wait of one session ends while another one begins.
#[test]
fn a_wait_that_ends_takes_no_other_wake_up_with_it() {
    model(|| {
        let told = Arc::new(Told::default());
        told.commit_wakeups.begin();
        let core = Arc::clone(&told);
        let core = thread::spawn(move || {
            core.publish(1);
            core.publish(2);
        });
        // The first is cancelled, the second waits for the last position.
        told.commit_wakeups.end();
        told.commit_wakeups.begin();
        let mut seen = told.flush_lsn.load(Ordering::Acquire);
        core.join().unwrap();
        while seen < 2 {
            assert!(told.is_told(), "waits for ever at {seen}");
            seen = told.look();
        }
    });
}

/// Fails when `mark` does not release or `drain` does not acquire.
#[test]
fn a_drained_mark_is_never_older_than_its_position() {
    model(|| {
        let bits = Arc::new(DirtyBits::new(2));
        let lsns = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        // Two ship cores, whose standbys share a word.
        let ships: [_; 2] = std::array::from_fn(|standby| {
            let (bits, lsns) = (Arc::clone(&bits), Arc::clone(&lsns));
            thread::spawn(move || {
                lsns[standby].store(1, Ordering::Relaxed);
                bits.mark(standby);
            })
        });
        let mut visits = [0; 2];
        let mut visit = |standby: usize| {
            visits[standby] += 1;
            assert_eq!(lsns[standby].load(Ordering::Relaxed), 1, "older than its mark");
        };
        bits.drain(&mut visit);
        for ship in ships {
            ship.join().unwrap();
        }
        bits.drain(&mut visit);
        assert_eq!(visits, [1, 1], "a mark was lost, or visited twice");
    });
}

/// Replies that come while the last ones are drained: the newest is never left lying.
#[test]
fn the_last_position_of_a_standby_is_always_drained() {
    model(|| {
        let bits = Arc::new(DirtyBits::new(1));
        let lsn = Arc::new(AtomicU64::new(0));
        let ship = {
            let (bits, lsn) = (Arc::clone(&bits), Arc::clone(&lsn));
            thread::spawn(move || {
                for reply in 1..=3 {
                    lsn.store(reply, Ordering::Relaxed);
                    bits.mark(0);
                }
            })
        };
        let mut seen = 0;
        let mut visit = |_| {
            let now = lsn.load(Ordering::Relaxed);
            assert!(now >= seen, "went back");
            seen = now;
        };
        bits.drain(&mut visit);
        bits.drain(&mut visit);
        ship.join().unwrap();
        bits.drain(&mut visit);
        assert_eq!(seen, 3);
    });
}

/// Fails when the generation is read last, or published before the positions are gone.
#[test]
fn nobody_reads_a_new_generation_with_what_was_reached_in_the_old_one() {
    model(|| {
        let published = Arc::new(PublishedSynced::new());
        let reached = |lsn| Synced::Reached(ModeLsns::of_wire(Lsn(lsn), Lsn(lsn), Lsn(0)));
        published.publish(reached(9));
        let core = Arc::clone(&published);
        let core = thread::spawn(move || {
            core.restart(true);
            core.publish(reached(2));
        });
        let seen = published.load();
        if let (1, Synced::Reached(lsns)) = (seen.generation, seen.synced) {
            assert!(lsns.write <= Some(Lsn(2)) && lsns.flush <= Some(Lsn(2)), "{lsns:?}");
        }
        core.join().unwrap();
        let last = published.load();
        assert_eq!((last.generation, last.synced), (1, reached(2)));
        assert!(published.is_defined());
    });
}

/// Fails when a place is booked without a look at whether the core is closed, or when closing does not
/// look at the in_transit.
#[test]
fn no_session_is_sent_to_a_core_that_has_ended() {
    model(|| {
        let in_transit = Arc::new(InTransit::new());
        let mail = Arc::new(AtomicU64::new(0));
        let others: [_; 2] = std::array::from_fn(|_| {
            let (in_transit, mail) = (Arc::clone(&in_transit), Arc::clone(&mail));
            thread::spawn(move || {
                let booked = in_transit.reserve() == Reservation::Booked;
                if booked {
                    mail.fetch_add(1, Ordering::Release);
                }
                u64::from(booked)
            })
        });
        let mut arrived = 0;
        let mut take = || {
            for _ in 0..mail.swap(0, Ordering::Acquire) {
                in_transit.arrive();
                arrived += 1;
            }
        };
        take();
        let mut ended = in_transit.close();
        let sent: u64 = others.map(|other| other.join().unwrap()).into_iter().sum();
        if !ended {
            take();
            ended = in_transit.close();
        }
        assert!(ended, "waits for ever");
        assert_eq!(arrived, sent, "a session was lost");
        assert_eq!(in_transit.count(), 0);
    });
}
