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
use crate::publish::in_transit::InTransit;
use crate::publish::positions::ShipStats;
use crate::serve::placement::Serves;

/// A ship core that sessions can go to.
#[derive(Debug)]
pub struct ShipAddress<C: Send> {
    /// Where others mail it.
    pub mail: Sender<ToShip<C>>,
    /// Sessions on their way to it.
    pub in_transit: Arc<InTransit>,
    /// What it counts.
    pub stats: Arc<ShipStats>,
}

impl<C: Send> Clone for ShipAddress<C> {
    fn clone(&self) -> Self {
        let (in_transit, stats) = (Arc::clone(&self.in_transit), Arc::clone(&self.stats));
        Self { mail: self.mail.clone(), in_transit, stats }
    }
}

impl<C: Send> ShipAddress<C> {
    /// Sessions that it has or will have.
    #[must_use]
    pub fn load(&self) -> u64 {
        let here = self.stats.counts().sessions.load(Ordering::Relaxed);
        here + self.in_transit.count()
    }
}

/// What one ship core is among all.
#[derive(Debug)]
pub struct ShipPeers<C: Send> {
    /// What others mail to it.
    pub mail: Receiver<ToShip<C>>,
    /// What it counts.
    pub stats: Arc<ShipStats>,
    /// Which standbys it serves.
    pub serves: Serves,
    /// Its number among the cores that serve the same.
    pub number: usize,
    /// Sessions on their way to it.
    pub in_transit: Arc<InTransit>,
    /// The cores for live standbys in order, itself among them if it is one.
    pub live: Vec<ShipAddress<C>>,
    /// The same of those for standbys that are behind.
    pub catchup: Vec<ShipAddress<C>>,
}

/// What the ship cores with these wakers know of each other: the first `live` are for live standbys, the rest for
/// those that are behind. With each comes its address for the wal core.
///
/// # Panics
/// If there are fewer than `live`.
#[must_use]
pub fn connect_ships<C: Send, W: Waker>(
    wakers: &[W],
    live: usize,
) -> Vec<(Sender<ToShip<C>>, ShipPeers<C>)> {
    let (addresses, mails): (Vec<ShipAddress<C>>, Vec<_>) = wakers
        .iter()
        .map(|waker| {
            let (mail, receiver) = mailbox(MAILBOX_MESSAGES_MAX, waker.clone());
            (ShipAddress { mail, in_transit: Arc::default(), stats: Arc::default() }, receiver)
        })
        .unzip();
    let (for_live, for_catchup) = addresses.split_at(live);
    let peers = |(index, mail)| {
        let own: &ShipAddress<C> = &addresses[index];
        let (serves, number) =
            if index < live { (Serves::Live, index) } else { (Serves::Catchup, index - live) };
        let (stats, in_transit) = (Arc::clone(&own.stats), Arc::clone(&own.in_transit));
        let (live, catchup) = (for_live.to_vec(), for_catchup.to_vec());
        (own.mail.clone(), ShipPeers { mail, stats, serves, number, in_transit, live, catchup })
    };
    mails.into_iter().enumerate().map(peers).collect()
}

#[cfg(test)]
mod tests {
    use crate::publish::in_transit::{IN_TRANSIT_MAX, InTransit, Reservation};

    #[test]
    fn a_core_closes_only_when_nobody_is_on_the_way() {
        let in_transit = InTransit::new();
        assert_eq!(in_transit.reserve(), Reservation::Booked);
        assert!(!in_transit.close());
        in_transit.arrive();
        assert!(in_transit.close());
        assert_eq!((in_transit.reserve(), in_transit.count()), (Reservation::Closed, 0));
    }

    #[test]
    fn there_are_not_more_berths_than_a_mailbox_can_hold() {
        let in_transit = InTransit::new();
        for _ in 0..IN_TRANSIT_MAX {
            assert_eq!(in_transit.reserve(), Reservation::Booked);
        }
        assert_eq!(in_transit.reserve(), Reservation::Full);
        in_transit.arrive();
        assert_eq!(in_transit.reserve(), Reservation::Booked);
    }
}
