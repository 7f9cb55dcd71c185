//! Sessions on their way from one ship core to another.
//!
//! A standby that is behind the tail cache is served from files by a catch-up core, so that the cores
//! of live standbys, one of which may be the wal core, send from memory only. It goes there when it
//! falls behind or begins behind, and back once it has everything. It goes from one core for live
//! standbys to another when the wal core has it, so that all have as many. A session leaves with
//! nothing under way: its machine, what was read and not understood, and the socket go by mail.
//!
//! Not here: when a session goes (`walsender`), to which live core it belongs (`ships`), how many
//! cores there are (`server`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use walhub_engine::io::Waker;
use walhub_engine::mailbox::{Receiver, Sender, mailbox};

use crate::mail::{MAILBOX_MESSAGES_MAX, ToShip};
use crate::publish::in_transit::Berths;
use crate::publish::positions::ShipStats;
use crate::serve::placement::Serves;

/// A ship core that sessions can go to.
#[derive(Debug)]
pub struct Neighbour<C: Send> {
    /// Where others mail it.
    pub mail: Sender<ToShip<C>>,
    /// Sessions on their way to it.
    pub berths: Arc<Berths>,
    /// What it counts.
    pub stats: Arc<ShipStats>,
}

impl<C: Send> Clone for Neighbour<C> {
    fn clone(&self) -> Self {
        let (berths, stats) = (Arc::clone(&self.berths), Arc::clone(&self.stats));
        Self { mail: self.mail.clone(), berths, stats }
    }
}

impl<C: Send> Neighbour<C> {
    /// Sessions that it has or will have.
    #[must_use]
    pub fn load(&self) -> u64 {
        let here = self.stats.counts().sessions.load(Ordering::Relaxed);
        here + self.berths.on_their_way()
    }
}

/// What one ship core is among all.
#[derive(Debug)]
pub struct Place<C: Send> {
    /// What others mail to it.
    pub mail: Receiver<ToShip<C>>,
    /// What it counts.
    pub stats: Arc<ShipStats>,
    /// Which standbys it serves.
    pub serves: Serves,
    /// Its number among the cores that serve the same.
    pub number: usize,
    /// Sessions on their way to it.
    pub berths: Arc<Berths>,
    /// The cores for live standbys in order, itself among them if it is one.
    pub lives: Vec<Neighbour<C>>,
    /// The same of those for standbys that are behind.
    pub lates: Vec<Neighbour<C>>,
}

/// The places of the ship cores with these wakers: the first `live` are for live standbys, the rest for
/// those that are behind. With each comes its address for the wal core.
///
/// # Panics
/// If there are fewer than `live`.
#[must_use]
pub fn places<C: Send, W: Waker>(wakers: &[W], live: usize) -> Vec<(Sender<ToShip<C>>, Place<C>)> {
    let (neighbours, mails): (Vec<Neighbour<C>>, Vec<_>) = wakers
        .iter()
        .map(|waker| {
            let (mail, receiver) = mailbox(MAILBOX_MESSAGES_MAX, waker.clone());
            (Neighbour { mail, berths: Arc::default(), stats: Arc::default() }, receiver)
        })
        .unzip();
    let (lives, lates) = neighbours.split_at(live);
    let place = |(index, mail)| {
        let own: &Neighbour<C> = &neighbours[index];
        let (serves, number) =
            if index < live { (Serves::Live, index) } else { (Serves::Catchup, index - live) };
        let (stats, berths) = (Arc::clone(&own.stats), Arc::clone(&own.berths));
        let (lives, lates) = (lives.to_vec(), lates.to_vec());
        (own.mail.clone(), Place { mail, stats, serves, number, berths, lives, lates })
    };
    mails.into_iter().enumerate().map(place).collect()
}

#[cfg(test)]
mod tests {
    use crate::publish::in_transit::{BERTHS_MAX, Berth, Berths};

    #[test]
    fn a_core_closes_only_when_nobody_is_on_the_way() {
        let berths = Berths::new();
        assert_eq!(berths.book(), Berth::Booked);
        assert!(!berths.close());
        berths.arrive();
        assert!(berths.close());
        assert_eq!((berths.book(), berths.on_their_way()), (Berth::Closed, 0));
    }

    #[test]
    fn there_are_not_more_berths_than_a_mailbox_can_hold() {
        let berths = Berths::new();
        for _ in 0..BERTHS_MAX {
            assert_eq!(berths.book(), Berth::Booked);
        }
        assert_eq!(berths.book(), Berth::Full);
        berths.arrive();
        assert_eq!(berths.book(), Berth::Booked);
    }
}
