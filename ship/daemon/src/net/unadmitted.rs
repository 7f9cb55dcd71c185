//! Connections that have not said yet who they are.
//!
//! Whoever may connect may also connect and say nothing, for as long as `authentication_timeout`. So that this keeps
//! nobody out, there are only so many of them, in all and of one address; and when one more comes, the one that has been
//! silent for longest goes, of the address that has most. Who has something to say does so within its first round trip.
//!
//! Who comes waits until whoever had to go for it has left, so that of a crowd that comes at once nobody is turned away
//! for the sake of those who are leaving.
//!
//! PostgreSQL: `canAcceptConnections`, which refuses the newcomer.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// Who it is, as far as one can tell; `None` over a Unix socket.
type Origin = Option<IpAddr>;

/// The connections that have not said yet who they are.
#[derive(Debug)]
pub(super) struct Unadmitted {
    max: usize,
    waiting: Mutex<Waiting>,
    one_has_left: Notify,
}

#[derive(Default, Debug)]
struct Waiting {
    next: u64,
    /// By number: the oldest comes first.
    by_number: BTreeMap<u64, (Origin, oneshot::Sender<()>)>,
    /// Those that were told to go and have not left.
    leaving: usize,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Silent {
    number: u64,
    all: Arc<Unadmitted>,
    told_to_go: oneshot::Receiver<()>,
}

impl Unadmitted {
    pub(super) fn new(max: u32) -> Arc<Self> {
        let max = usize::try_from(max).unwrap_or(usize::MAX).max(2);
        Arc::new(Self { max, waiting: Mutex::default(), one_has_left: Notify::new() })
    }

    /// Takes one in, and has another go when there are too many.
    pub(super) fn enter(self: &Arc<Self>, from: Origin) -> Silent {
        let from = from.map(|ip| ip.to_canonical());
        let mut waiting = self.waiting();
        if let Some(oldest) = waiting.one_too_many(from, self.max)
            && let Some((_, go)) = waiting.by_number.remove(&oldest)
        {
            // It may be on its way out by itself.
            let _ = go.send(());
            waiting.leaving += 1;
        }
        let number = waiting.next;
        waiting.next += 1;
        let (go, told_to_go) = oneshot::channel();
        waiting.by_number.insert(number, (from, go));
        Silent { number, all: Arc::clone(self), told_to_go }
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
    /// Who must go before one more comes from there.
    fn one_too_many(&self, from: Origin, max: usize) -> Option<u64> {
        let count_of = |from: Origin| self.by_number.values().filter(|it| it.0 == from).count();
        let crowd = if count_of(from) >= max / 2 {
            from
        } else if self.by_number.len() >= max {
            let mut counts: BTreeMap<Origin, usize> = BTreeMap::new();
            for (from, _) in self.by_number.values() {
                *counts.entry(*from).or_default() += 1;
            }
            counts.into_iter().max_by_key(|(_, count)| *count)?.0
        } else {
            return None;
        };
        self.by_number.iter().find(|(_, (from, _))| *from == crowd).map(|(number, _)| *number)
    }
}

impl Silent {
    /// Waits until it is told to go.
    pub(super) async fn told_to_go(&mut self) {
        // Without a word it was let in.
        if (&mut self.told_to_go).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let mut waiting = self.all.waiting();
        if waiting.by_number.remove(&self.number).is_none() {
            waiting.leaving -= 1;
            self.all.one_has_left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_to_go(silent: &mut Silent) -> bool {
        silent.told_to_go.try_recv().is_ok()
    }

    #[test]
    fn the_longest_silent_of_the_largest_crowd_goes() {
        let all = Unadmitted::new(8);
        let crowd: Origin = Some([127, 0, 0, 9].into());
        let mut silent: Vec<Silent> = (0..4).map(|_| all.enter(crowd)).collect();
        assert!(!silent.iter_mut().any(has_to_go));
        // Half of all is one address's share.
        silent.push(all.enter(crowd));
        let gone: Vec<bool> = silent.iter_mut().map(has_to_go).collect();
        assert_eq!(gone, [true, false, false, false, false]);
        // An address is the same however it is written.
        silent.push(all.enter(Some("::ffff:127.0.0.9".parse().unwrap())));
        assert!(has_to_go(&mut silent[1]));
        let mut others: Vec<Silent> =
            (1..=4).map(|last| all.enter(Some([127, 0, 0, last].into()))).collect();
        // Now all places are taken, and the operator comes.
        let mut operator = all.enter(None);
        assert!(has_to_go(&mut silent[2]));
        assert!(!others.iter_mut().any(has_to_go) && !has_to_go(&mut operator));
        drop(operator);
        drop(others);
        drop(silent);
        assert!(all.waiting().by_number.is_empty());
    }

    #[test]
    fn a_thousand_silent_ones_keep_nobody_out() {
        let all = Unadmitted::new(110);
        let mut silent: Vec<Silent> =
            (0..1000).map(|_| all.enter(Some([127, 0, 0, 1].into()))).collect();
        assert_eq!(all.waiting().by_number.len(), 55);
        let mut welcome = all.enter(Some([127, 0, 0, 1].into()));
        assert!(!has_to_go(&mut welcome));
        assert_eq!(silent.iter_mut().filter_map(|it| has_to_go(it).then_some(())).count(), 946);
    }
}
