//! The ship cores as the wal core has them: mailed, woken, and given walsenders so that each has as many.
//!
//! Not here: what a ship core does (`ship_core`), which walsender is on which (`crate::policy::walsenders`).

use walhub_engine::io::Waker;
use walhub_engine::mailbox::Sender;
use walhub_proto::lsn::Lsn;

use crate::mail::{NewWalsender, ToShip};
use crate::serve::placement::Serves;
use crate::store::tail::TailSlab;

/// A ship core, as the wal core knows it.
#[derive(Debug)]
pub struct ShipLink<C: Send, W> {
    /// Where the wal core mails it.
    pub mail: Sender<ToShip<C>>,
    /// Wakes it when a position moved.
    pub waker: W,
    /// Which standbys it serves. All begin on a core for live ones.
    pub serves: Serves,
    /// Sessions that began on it.
    pub sessions: usize,
}

/// All ship cores of a hub.
#[derive(Debug)]
pub struct ShipCores<C: Send, W> {
    links: Vec<ShipLink<C, W>>,
    /// They were told to stop: one that has nothing left to send has ended.
    stopped: bool,
}

impl<C: Send, W: Waker> ShipCores<C, W> {
    /// They have no walsenders yet.
    #[must_use]
    pub fn new(links: Vec<ShipLink<C, W>>) -> Self {
        Self { links, stopped: false }
    }

    /// Mails every one. They read their mail at each turn, so it is never full.
    ///
    /// # Panics
    /// If one does not.
    pub fn mail(&self, mut mail: impl FnMut() -> ToShip<C>) {
        for link in &self.links {
            let sent = link.mail.send(mail());
            assert!(sent.is_ok() || self.stopped, "a ship core does not read its mail");
        }
    }

    /// Tells them of slabs of the tail, before any position in these is published.
    pub fn announce(&self, slabs: impl IntoIterator<Item = TailSlab>) {
        for slab in slabs {
            self.mail(|| ToShip::Slab(slab.clone()));
        }
    }

    /// Wakes those that serve live standbys.
    pub fn wake_live(&self) {
        for link in self.links.iter().filter(|link| link.serves == Serves::Live) {
            link.waker.wake();
        }
    }

    /// Has them send everything up to `end`, and end. How many will say that they have.
    pub fn stop(&mut self, end: Lsn) -> usize {
        self.stopped = true;
        self.mail(|| ToShip::Stop { end });
        self.links.len()
    }

    /// The one on which the next walsender begins: it counts as one there.
    pub fn take_place(&mut self) -> Option<usize> {
        let links = self.links.iter_mut().enumerate();
        let live = links.filter(|(_, link)| link.serves == Serves::Live);
        let (ship, link) = live.min_by_key(|(_, link)| link.sessions)?;
        link.sessions += 1;
        Some(ship)
    }

    /// Has a walsender begin there.
    ///
    /// # Panics
    /// If that core does not read its mail.
    pub fn start(&self, ship: usize, session: NewWalsender<C>) {
        let Some(link) = self.links.get(ship) else { return };
        let sent = link.mail.send(ToShip::Start(session));
        assert!(sent.is_ok(), "a ship core does not read its mail");
    }

    /// A walsender has ended.
    pub fn leave_place(&mut self, ship: usize) {
        if let Some(link) = self.links.get_mut(ship) {
            link.sessions = link.sessions.saturating_sub(1);
        }
    }

    /// From where to where one walsender should go: from the live core with the most of them to that with
    /// the fewest, when that brings them nearer.
    #[must_use]
    pub fn imbalance(&self) -> Option<(usize, usize)> {
        let links = self.links.iter().enumerate();
        let live = links.filter(|(_, link)| link.serves == Serves::Live);
        let loads = live.map(|(ship, link)| (link.sessions, ship));
        let ((fewest, to), (most, from)) = (loads.clone().min()?, loads.max()?);
        (most > fewest + 1).then_some((from, to))
    }

    /// One has gone from one to the other.
    pub fn count_move(&mut self, from: usize, to: usize) {
        self.leave_place(from);
        if let Some(link) = self.links.get_mut(to) {
            link.sessions += 1;
        }
    }
}
