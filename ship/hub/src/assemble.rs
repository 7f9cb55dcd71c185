//! The hub put together. This is the only composition: the server, an embedded log and the simulator
//! build the same hub, each on its own kind of `Io`.
//!
//! Not here: how many cores there are, on which threads they run, what wakes them.

use std::path::PathBuf;
use std::sync::Arc;

use walhub_engine::io::{Fs, Io, Waker};
use walhub_engine::mailbox::mailbox;

use crate::api::settings::HubSettings;
use crate::core_loop::{Core, now};
use crate::mail::{MAILBOX_MESSAGES_MAX, ToWal};
use crate::publish::commits::commits;
use crate::publish::handle::{Clock, Handle, HandleParts, PublishedSlots};
use crate::publish::positions::{Shared, StandbyTable};
use crate::serve::moves::connect_ships;
use crate::serve::ship_core::{ShipConfig, ShipCore};
use crate::serve::ships::ShipLink;
use crate::store::recover::Recovered;
use crate::store::writer::FlushMethod;
use crate::wal_core::{Control, WalConfig, WalCore, slabs_max};
use walhub_proto::convert::to_usize;

/// What a hub is made from.
pub struct Assembly<W> {
    /// Data directory.
    pub data_dir: PathBuf,
    /// What start-up found in it.
    pub recovered: Recovered,
    /// The control plane's own way to the files.
    pub fs: Box<dyn Fs>,
    /// The control plane's clock.
    pub clock: Clock,
    /// Settings.
    pub settings: Arc<HubSettings>,
    /// What wakes each core: the wal core, the others for live standbys, those for standbys that are
    /// behind.
    pub wakers: Vec<W>,
    /// How many of them are for standbys that are behind.
    pub catchup_cores: usize,
    /// Whether segments are written and read past the page cache.
    pub direct: bool,
    /// How they are made durable.
    pub method: FlushMethod,
    /// See [`WalConfig::max_wal_size`].
    pub max_wal_size: u64,
    /// Takes what the wal core asks of the control plane.
    pub control: Control,
}

/// A hub whose cores have not begun.
pub struct Assembled<C: Send, W> {
    /// The control plane's end.
    pub front: Handle<C>,
    /// One for each waker, in their order.
    pub cores: Vec<NewCore<C, W>>,
}

/// A core that has not begun. It is made where it will run, because its buffers are its own.
pub struct NewCore<C: Send, W> {
    wal: Option<NewWalCore<C, W>>,
    ship: Option<ShipCore<C>>,
}

/// What a wal core begins with.
struct NewWalCore<C: Send, W> {
    config: WalConfig<C>,
    ships: Vec<ShipLink<C, W>>,
    recovered: Recovered,
}

impl<C: Send + 'static, W: Waker> NewCore<C, W> {
    /// The core, on its thread.
    pub fn begin<I: Io<Conn = C>>(self, io: &I) -> Core<C, W> {
        let wal = self.wal.map(|NewWalCore { config, ships, recovered }| {
            WalCore::new(config, ships, recovered, now(io))
        });
        Core { wal, ship: self.ship }
    }
}

impl<W: Waker> Assembly<W> {
    /// Puts the hub together.
    ///
    /// # Panics
    /// If there is no core for live standbys.
    #[must_use]
    pub fn assemble<C: Send + 'static>(self) -> Assembled<C, W> {
        let Self { data_dir, recovered, fs, clock, settings, wakers, .. } = self;
        let shared = Arc::new(Shared::default());
        // The first client may come before the wal core has had its first turn.
        shared.role.store(recovered.role());
        let standbys_max = to_usize(u64::from(settings.max_wal_senders));
        let standbys = Arc::new(StandbyTable::new(standbys_max));
        let slots = PublishedSlots::default();
        let [wal_waker, ..] = &*wakers else { panic!("a hub has a core") };
        let (to_wal, wal_mail) = mailbox::<ToWal<C>, _>(MAILBOX_MESSAGES_MAX, wal_waker.clone());
        let (commits, commit_link) = commits(wal_waker.clone());
        let live_cores = wakers.len() - self.catchup_cores;
        // One core does both; with more, core 0 is the wal core alone.
        let first_ship = usize::from(live_cores > 1);
        let ship_wakers = wakers.get(first_ship..).unwrap_or_default();
        let ship_peers = connect_ships(ship_wakers, live_cores - first_ship);
        let _ = shared
            .ships
            .set(ship_peers.iter().map(|(_, peers)| Arc::clone(&peers.stats)).collect());
        let (mut ships, mut ship_cores) = (Vec::new(), Vec::new());
        for ((mail, peers), waker) in ship_peers.into_iter().zip(ship_wakers) {
            ships.push(ShipLink { mail, waker: waker.clone(), serves: peers.serves, sessions: 0 });
            ship_cores.push(ShipCore::new(ShipConfig {
                shared: Arc::clone(&shared),
                standbys: Arc::clone(&standbys),
                peers,
                to_wal: to_wal.clone(),
                wal_dir: data_dir.join("pg_wal"),
                slabs_max: slabs_max(&settings),
                settings: Arc::clone(&settings),
                direct: self.direct,
            }));
        }
        let front = Handle::new(HandleParts {
            shared: Arc::clone(&shared),
            standbys: Arc::clone(&standbys),
            slots: Arc::clone(&slots),
            to_wal,
            commits,
            wal_dir: data_dir.join("pg_wal"),
            fs,
            settings: Arc::clone(&settings),
            clock: Arc::new(clock),
        });
        let config = WalConfig {
            data_dir,
            shared,
            standbys,
            mail: wal_mail,
            control: self.control,
            slots,
            commits: commit_link,
            settings,
            direct: self.direct,
            method: self.method,
            max_wal_size: self.max_wal_size,
        };
        let mut ship_cores = ship_cores.into_iter();
        let ship = if first_ship == 0 { ship_cores.next() } else { None };
        let wal = Some(NewWalCore { config, ships, recovered });
        let mut cores = vec![NewCore { wal, ship }];
        cores.extend(ship_cores.map(|ship| NewCore { wal: None, ship: Some(ship) }));
        Assembled { front, cores }
    }
}
