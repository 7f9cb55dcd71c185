//! Connections that have not shown yet who they are.
//!
//! Whoever may connect may also connect and say nothing, or begin to log in and stop half way, for as long as
//! `authentication_timeout`. So that this keeps nobody out, there are only so many of them, in all and of one origin; and
//! when one more comes, one goes, of the origin that has most. First go those that have failed and only wait for
//! `auth_delay`, then whoever has been waited for the longest: who means it answers within a round trip, and each answer
//! begins a new wait. There are few answers until it is let in, so nobody stays by giving them.
//!
//! Over a network an origin is an address, of version 6 its first 64 bits, which is what one machine may choose its
//! addresses from; over a Unix socket it is the user, so that no other one keeps the operator out.
//!
//! Who comes waits until whoever had to go for it has left, so that of a crowd that comes at once nobody is turned away
//! for the sake of those who are leaving.
//!
//! PostgreSQL: `canAcceptConnections`, which refuses the newcomer.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Who it is, as far as one can tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Origin {
    /// A user of this machine, over a Unix socket; `None` when the kernel does not say which.
    User(Option<u32>),
    /// A machine.
    Address(IpAddr),
}

impl Origin {
    /// Whoever has this address.
    pub(super) fn of_address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
            }
        })
    }
}

/// The connections that have not shown yet who they are.
#[derive(Debug)]
pub(super) struct Unadmitted {
    max: usize,
    waiting: Mutex<Waiting>,
    one_has_left: Notify,
}

/// Who goes first is first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Standing {
    /// It has failed already.
    Failed(u64),
    /// It is waited for. Whoever is so for longest has the smallest number.
    WaitedFor(u64),
}

#[derive(Default, Debug)]
struct Waiting {
    next: u64,
    by_standing: BTreeMap<Standing, (Origin, Arc<Notify>)>,
    /// Those that were told to go and have not left.
    leaving: usize,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Silent {
    standing: Cell<Standing>,
    all: Arc<Unadmitted>,
    go: Arc<Notify>,
}

impl Unadmitted {
    pub(super) fn new(max: u32) -> Arc<Self> {
        let max = usize::try_from(max).unwrap_or(usize::MAX).max(2);
        Arc::new(Self { max, waiting: Mutex::default(), one_has_left: Notify::new() })
    }

    /// Takes one in, and has another go when there are too many.
    pub(super) fn enter(self: &Arc<Self>, from: Origin) -> Silent {
        let mut waiting = self.waiting();
        if let Some(goes) = waiting.one_too_many(from, self.max)
            && let Some((_, go)) = waiting.by_standing.remove(&goes)
        {
            go.notify_one();
            waiting.leaving += 1;
        }
        let go = Arc::new(Notify::new());
        let standing = Standing::WaitedFor(waiting.number());
        waiting.by_standing.insert(standing, (from, Arc::clone(&go)));
        Silent { standing: Cell::new(standing), all: Arc::clone(self), go }
    }

    /// Waits until everybody who was told to go has left.
    pub(super) async fn room_is_made(&self) {
        loop {
            let one_has_left = self.one_has_left.notified();
            if self.waiting().leaving == 0 {
                return;
            }
            one_has_left.await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that can panic runs under it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Who must go before one more comes from there.
    fn one_too_many(&self, from: Origin, max: usize) -> Option<Standing> {
        let count_of = |from: Origin| self.by_standing.values().filter(|it| it.0 == from).count();
        let first_of = |crowd: Origin| {
            let mut of_crowd = self.by_standing.iter().filter(|(_, (from, _))| *from == crowd);
            of_crowd.next().map(|(standing, _)| *standing)
        };
        if count_of(from) >= max / 2 {
            return first_of(from);
        }
        if self.by_standing.len() < max {
            return None;
        }
        let mut counts: BTreeMap<Origin, usize> = BTreeMap::new();
        for (from, _) in self.by_standing.values() {
            *counts.entry(*from).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        // Of many crowds that are as large the one that goes first decides, or one origin would always lose.
        counts.into_iter().filter(|(_, count)| *count == most).filter_map(|it| first_of(it.0)).min()
    }
}

impl Silent {
    /// It has said something, and is waited for anew.
    pub(super) fn heard(&self) {
        self.stand(Standing::WaitedFor);
    }

    /// It has failed, and is nobody who must be kept.
    pub(super) fn failed(&self) {
        self.stand(Standing::Failed);
    }

    fn stand(&self, standing: fn(u64) -> Standing) {
        let mut waiting = self.all.waiting();
        // One that was told to go stays told.
        if let Some(entry) = waiting.by_standing.remove(&self.standing.get()) {
            let standing = standing(waiting.number());
            self.standing.set(standing);
            waiting.by_standing.insert(standing, entry);
        }
    }

    /// Waits until it is told to go.
    pub(super) async fn told_to_go(&self) {
        self.go.notified().await;
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let mut waiting = self.all.waiting();
        if waiting.by_standing.remove(&self.standing.get()).is_none() {
            waiting.leaving -= 1;
            self.all.one_has_left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_to_go(silent: &Silent) -> bool {
        !silent.all.waiting().by_standing.contains_key(&silent.standing.get())
    }

    fn loopback(last: u8) -> Origin {
        Origin::of_address([127, 0, 0, last].into())
    }

    const OPERATOR: Origin = Origin::User(Some(0));

    #[test]
    fn the_longest_silent_of_the_largest_crowd_goes() {
        let all = Unadmitted::new(8);
        let mut silent: Vec<Silent> = (0..4).map(|_| all.enter(loopback(9))).collect();
        assert!(!silent.iter().any(has_to_go));
        // Half of all is one origin's share.
        silent.push(all.enter(loopback(9)));
        let gone: Vec<bool> = silent.iter().map(has_to_go).collect();
        assert_eq!(gone, [true, false, false, false, false]);
        // An address is the same however it is written.
        silent.push(all.enter(Origin::of_address("::ffff:127.0.0.9".parse().unwrap())));
        assert!(has_to_go(&silent[1]));
        let others: Vec<Silent> = (1..=4).map(|last| all.enter(loopback(last))).collect();
        // Now all places are taken, and the operator comes.
        let operator = all.enter(OPERATOR);
        assert!(has_to_go(&silent[2]));
        assert!(!others.iter().any(has_to_go) && !has_to_go(&operator));
        drop((operator, others, silent));
        let waiting = all.waiting();
        assert!(waiting.by_standing.is_empty() && waiting.leaving == 0);
    }

    #[test]
    fn a_thousand_silent_ones_keep_nobody_out() {
        let all = Unadmitted::new(110);
        let silent: Vec<Silent> = (0..1000).map(|_| all.enter(loopback(1))).collect();
        assert_eq!(all.waiting().by_standing.len(), 55);
        let welcome = all.enter(loopback(1));
        assert!(!has_to_go(&welcome));
        assert_eq!(silent.iter().filter(|it| has_to_go(it)).count(), 946);
    }

    #[test]
    fn who_answers_is_waited_for_anew_and_who_has_failed_goes_first() {
        let all = Unadmitted::new(6);
        let [slow, answers, fails] = [1, 2, 3].map(|_| all.enter(loopback(1)));
        slow.heard();
        answers.heard();
        fails.failed();
        let first = all.enter(loopback(1));
        assert!(has_to_go(&fails) && !has_to_go(&slow));
        answers.heard();
        let second = all.enter(loopback(1));
        assert!(has_to_go(&slow) && !has_to_go(&answers));
        // What comes of one that was told to go changes nothing.
        slow.heard();
        fails.failed();
        assert!(has_to_go(&slow) && has_to_go(&fails));
        assert_eq!(all.waiting().leaving, 2);
        drop((slow, fails, first, second, answers));
        assert!(all.waiting().by_standing.is_empty() && all.waiting().leaving == 0);
    }

    #[test]
    fn of_many_single_ones_the_longest_silent_goes_wherever_it_is_from() {
        let all = Unadmitted::new(4);
        // The operator's origin would be the last or the first of an order by origin.
        for crowd in [[1, 2, 3, 4], [4, 3, 2, 1]] {
            let silent = crowd.map(|last| all.enter(loopback(last)));
            let operator = all.enter(OPERATOR);
            let next = all.enter(loopback(9));
            assert!(has_to_go(&silent[0]) && has_to_go(&silent[1]) && !has_to_go(&operator));
            drop((silent, next));
        }
    }

    #[test]
    fn a_network_of_version_six_is_one_origin() {
        let of = |text: &str| Origin::of_address(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_ne!(Origin::User(Some(0)), Origin::User(Some(1)));
    }

    #[test]
    fn who_is_told_to_go_hears_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let all = Unadmitted::new(2);
            let first = all.enter(loopback(1));
            let _second = all.enter(loopback(1));
            first.told_to_go().await;
            tokio::select! {
                biased;
                () = all.room_is_made() => panic!("it has not left"),
                () = std::future::ready(()) => {}
            }
            drop(first);
            all.room_is_made().await;
        });
    }
}
