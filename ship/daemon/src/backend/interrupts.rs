//! What reaches a session from outside its connection: a cancel request, the end, a look at it.
//!
//! PostgreSQL: `processCancelRequest` (src/backend/postmaster/postmaster.c), `ProcessInterrupts`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use subtle::ConstantTimeEq as _;
use tokio::sync::{Notify, watch};
use walhub_proto::wire::startup::CANCEL_KEY_BYTES;

use super::activity::Activity;
use super::memory::{Account, Memory};
use super::turns::Turns;
use crate::random;

/// How far the COPY of a session has come, as `pg_stat_progress_copy` shows it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CopyProgress {
    /// Database of the session.
    pub database: String,
    /// Bytes taken from the client.
    pub bytes_processed: u64,
    /// Rows taken from them.
    pub tuples_processed: u64,
}

/// A connection's TLS, as `pg_stat_ssl` shows it. PostgreSQL: `PgBackendSSLStatus`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SslStatus {
    /// As `TLSv1.3`.
    pub version: &'static str,
    /// OpenSSL's name of the cipher.
    pub cipher: &'static str,
    /// Bits of its key.
    pub bits: i32,
    /// Subject of the client's certificate.
    pub client_dn: Option<String>,
    /// Its serial number, in decimal digits.
    pub client_serial: Option<String>,
    /// Its issuer.
    pub issuer_dn: Option<String>,
}

/// What one session asks of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// To stop what it does. PostgreSQL: `pg_cancel_backend`.
    Cancel,
    /// To end. PostgreSQL: `pg_terminate_backend`.
    Terminate,
}

/// What a client must show to have its session's statement cancelled: nobody may guess it.
///
/// PostgreSQL: `MyCancelKey`.
#[derive(Clone)]
pub struct CancelKey(Box<[u8]>);

impl CancelKey {
    /// A new one of so many bytes, of which there are up to 32.
    fn new(len: usize) -> Self {
        let random: [u8; CANCEL_KEY_BYTES] = random::bytes();
        Self(random.into_iter().take(len).collect())
    }

    /// As BackendKeyData tells it.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CancelKey(..)")
    }
}

/// What others may do to a session.
#[derive(Debug)]
pub struct Interrupts {
    pid: u32,
    key: CancelKey,
    /// OID of the role that has logged in; 0 until then.
    user: AtomicU32,
    cancel: Notify,
    /// Cancel requests so far.
    cancels: AtomicU64,
    terminate: watch::Sender<bool>,
    /// The whole server's end.
    server: watch::Receiver<bool>,
    copy: Mutex<Option<CopyProgress>>,
    /// Its TLS, as `pg_stat_ssl` shows it.
    tls: Mutex<Option<SslStatus>>,
    /// What a session in SQL does; `None` of others.
    activity: Mutex<Option<Activity>>,
    /// The memory that it holds.
    account: Arc<Account>,
}

impl Interrupts {
    /// What BackendKeyData tells the client.
    #[must_use]
    pub const fn key(&self) -> &CancelKey {
        &self.key
    }

    /// Says who has logged in. PostgreSQL: `PGPROC.roleId`.
    pub fn set_user(&self, oid: u32) {
        self.user.store(oid, Ordering::Relaxed);
    }

    /// Waits for a cancel request. One that came before this call is forgotten, as one that finds
    /// a session idle.
    pub(super) async fn canceled(&self) {
        self.cancel.notified().await;
    }

    /// Waits until the session must end.
    pub async fn terminated(&self) {
        let (mut session, mut server) = (self.terminate.subscribe(), self.server.clone());
        // When nobody is left to say so, the process is on its way out as well.
        tokio::select! {
            _ = session.wait_for(|&terminate| terminate) => {}
            _ = server.wait_for(|&terminate| terminate) => {}
        }
    }

    /// Waits until this very session is canceled or terminated; not for the server's end.
    pub async fn interrupted(&self) -> Interrupt {
        let mut terminate = self.terminate.subscribe();
        tokio::select! {
            biased;
            _ = terminate.wait_for(|&terminate| terminate) => Interrupt::Terminate,
            () = self.canceled() => Interrupt::Cancel,
        }
    }

    /// How many cancel requests have come: one that did while a statement was at work shows here.
    pub(super) fn cancels(&self) -> u64 {
        self.cancels.load(Ordering::Acquire)
    }

    fn cancel(&self) {
        self.cancels.fetch_add(1, Ordering::AcqRel);
        self.cancel.notify_waiters();
    }

    /// The memory that the session holds.
    pub(super) const fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Whether the session must end.
    pub(super) fn is_terminated(&self) -> bool {
        *self.terminate.borrow() || *self.server.borrow()
    }

    /// Shows the session as one over TLS.
    pub(crate) fn show_ssl(&self, status: SslStatus) {
        *locked(&self.tls) = Some(status);
    }

    /// Shows the session as one that takes SQL.
    pub(super) fn show(&self, activity: Activity) {
        *locked(&self.activity) = Some(activity);
    }

    /// Changes what is shown of it.
    pub(super) fn change_activity(&self, change: impl FnOnce(&mut Activity)) {
        if let Some(activity) = locked(&self.activity).as_mut() {
            change(activity);
        }
    }

    /// Shows, or no longer shows, a COPY.
    pub(super) fn show_copy(&self, progress: Option<CopyProgress>) {
        *locked(&self.copy) = progress;
    }
}

/// The sessions that are connected.
#[derive(Default, Debug)]
pub struct Sessions {
    members: Mutex<BTreeMap<u32, Arc<Interrupts>>>,
    memory: Arc<Memory>,
    turns: Turns,
    reload: Notify,
}

/// A session's place among the others; it leaves on drop.
#[derive(Debug)]
pub struct Member {
    /// What others may do to it.
    pub interrupts: Arc<Interrupts>,
    sessions: Arc<Sessions>,
}

impl Drop for Member {
    fn drop(&mut self) {
        locked(&self.sessions.members).remove(&self.interrupts.pid);
    }
}

impl Sessions {
    /// Takes a session in, whose cancel key has so many bytes. `server` turns true when every session must end.
    #[must_use]
    pub fn enter(
        self: &Arc<Self>,
        pid: u32,
        key_bytes: usize,
        server: watch::Receiver<bool>,
    ) -> Member {
        let interrupts = Arc::new(Interrupts {
            pid,
            key: CancelKey::new(key_bytes),
            user: AtomicU32::new(0),
            cancel: Notify::new(),
            terminate: watch::Sender::new(false),
            server,
            copy: Mutex::default(),
            tls: Mutex::default(),
            activity: Mutex::default(),
            cancels: AtomicU64::new(0),
            account: Account::new(Arc::clone(&self.memory)),
        });
        locked(&self.members).insert(pid, Arc::clone(&interrupts));
        Member { interrupts, sessions: Arc::clone(self) }
    }

    /// A cancel request from a connection of its own. PostgreSQL: `processCancelRequest`.
    pub fn cancel_request(&self, pid: u32, key: &[u8]) {
        match self.member(pid) {
            Some(member) if bool::from(member.key.bytes().ct_eq(key)) => member.cancel(),
            Some(_) => tracing::info!("wrong key in cancel request for process {pid}"),
            None => tracing::info!("PID {pid} in cancel request did not match any process"),
        }
    }

    /// Whether there is a session of that pid.
    pub(super) fn has(&self, pid: u32) -> bool {
        locked(&self.members).contains_key(&pid)
    }

    /// OID of the role that the session of that pid has logged in as.
    pub(super) fn user_of(&self, pid: u32) -> Option<u32> {
        let user = self.member(pid).map(|member| member.user.load(Ordering::Relaxed));
        user.filter(|user| *user != 0)
    }

    /// Cancels what a session waits for; `false` when there is none of that pid.
    pub(super) fn cancel(&self, pid: u32) -> bool {
        let member = self.member(pid);
        member.inspect(|member| member.cancel()).is_some()
    }

    /// Ends a session; `false` when there is none of that pid.
    pub(super) fn terminate(&self, pid: u32) -> bool {
        let member = self.member(pid);
        member.map(|member| member.terminate.send_replace(true)).is_some()
    }

    /// Has the server read its files again.
    pub(super) fn ask_for_reload(&self) {
        self.reload.notify_one();
    }

    /// Waits until a session wants the server to read its files again.
    pub async fn reload_wanted(&self) {
        self.reload.notified().await;
    }

    /// What they hold of `sql_memory_limit`.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What each of them holds, by pid.
    pub(super) fn accounts(&self) -> Vec<(u32, Arc<Account>)> {
        let members = locked(&self.members);
        members.iter().map(|(pid, member)| (*pid, Arc::clone(&member.account))).collect()
    }

    /// Whose long statement runs.
    pub(super) const fn turns(&self) -> &Turns {
        &self.turns
    }

    /// What every session in SQL does, by pid.
    pub(super) fn activities(&self) -> Vec<Activity> {
        let members = locked(&self.members);
        members.values().filter_map(|member| locked(&member.activity).clone()).collect()
    }

    /// The TLS of every session that a client has, by pid.
    pub(super) fn ssl(&self) -> Vec<(u32, Option<SslStatus>)> {
        let members = locked(&self.members);
        members.iter().map(|(pid, member)| (*pid, locked(&member.tls).clone())).collect()
    }

    /// Every COPY that runs, by the pid of its session.
    pub(super) fn copies(&self) -> Vec<(u32, CopyProgress)> {
        let members = locked(&self.members);
        let copy = |member: &Arc<Interrupts>| {
            locked(&member.copy).clone().map(|progress| (member.pid, progress))
        };
        members.values().filter_map(copy).collect()
    }

    fn member(&self, pid: u32) -> Option<Arc<Interrupts>> {
        locked(&self.members).get(&pid).cloned()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use walhub_proto::wire::startup::SHORT_CANCEL_KEY_BYTES;

    use super::*;

    #[test]
    fn only_the_right_key_cancels_and_only_who_is_there_is_found() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let sessions = Arc::new(Sessions::default());
            let enter = |pid, key_bytes| {
                sessions.enter(pid, key_bytes, watch::Sender::new(false).subscribe())
            };
            let member = enter(7, SHORT_CANCEL_KEY_BYTES);
            let other = enter(9, CANCEL_KEY_BYTES);
            let key = member.interrupts.key().bytes().to_vec();
            let others_key = other.interrupts.key().bytes();
            assert_eq!((key.len(), others_key.len()), (4, 32));
            let interrupts = Arc::clone(&member.interrupts);
            let mut canceled = std::pin::pin!(interrupts.canceled());
            let mut is_canceled = async || {
                tokio::select! { biased; () = &mut canceled => true, () = std::future::ready(()) => false }
            };
            assert!(!is_canceled().await);
            let wrong = [&key[..3], &[key[3] ^ 1]].concat();
            let longer = [&key[..], &[0; 28]].concat();
            for key in [&wrong[..], &longer, &key[..3], &[], others_key] {
                sessions.cancel_request(7, key);
            }
            sessions.cancel_request(8, &key);
            sessions.cancel_request(9, &key);
            assert!(!is_canceled().await);
            sessions.cancel_request(7, &key);
            assert!(is_canceled().await);
            assert!(!sessions.terminate(8) && !member.interrupts.is_terminated());
            assert!(sessions.terminate(7) && member.interrupts.is_terminated());
            drop(member);
            assert!(!sessions.cancel(7));
        });
    }
}
