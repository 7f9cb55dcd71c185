//! Learns roles from who keeps them: the upstream (`auth_query`), and PgBouncer's userlist (`auth_file`).
//!
//! The upstream is asked when somebody wants to log in whose role was not made here. What it says is kept with the roles
//! of this server, durably, so that the same standby can log in when the upstream is gone. An upstream that cannot be
//! asked is left alone for [`RETRY_INTERVAL`], so that many logins do not each wait for it.
//!
//! A role that nobody has is asked for as one that somebody has, and takes as long.
//!
//! PgBouncer: `auth_query`, `auth_user`, `auth_file`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout_at};
use walhub_hub::api::hub::Hub;
use walhub_proto::conninfo::ConnInfo;
use walhub_proto::password::{self, Encryption, SCRAM_ITERATIONS_DEFAULT, SCRAM_SALT_LEN, Secret};
use walhub_proto::roles::Role;
use walhub_proto::roles::learnt::{Keeper, NotLearnt};
use walhub_proto::time::Timestamp;
use walhub_proto::userlist;
use walhub_sql::value::Value;
use walhub_sql::value::types::Type;
use zeroize::Zeroizing;

use super::connect::roles::{RemoteRole, find_role};
use super::connect::{Cause, ConnectOptions, Failure, SqlSession, connect_sql, parse_conninfo};
use crate::placement::spawn_blocking;
use crate::random;
use crate::roles::RoleStore;
use crate::settings::{Settings, files};
use crate::strerror::strerror;

/// For so long an answer counts.
const FRESH: Duration = Duration::from_secs(2);
/// Names whose answers are remembered for that long.
const ASKED_MAX: usize = 1000;
/// So long asking may take, waiting for others who ask included.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// A session with the upstream is closed when it was not used for so long.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// Everybody may ask this, of a primary and of a standby. PostgreSQL: `pg_control_system`.
const SYSTEM_IDENTIFIER: &str = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
/// After this an upstream that could not be asked is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Learns roles.
pub struct Learner {
    store: Arc<RoleStore>,
    hub: Arc<dyn Hub<OwnedFd>>,
    settings: watch::Receiver<Arc<Settings>>,
    asking: Arc<Mutex<Asking>>,
    /// Whoever reads the file has it.
    reading: Mutex<()>,
}

/// Who asks has it alone.
#[derive(Default)]
struct Asking {
    session: Option<Session>,
    asked: BTreeMap<String, Instant>,
    /// The upstream could not be asked.
    not_before: Option<Instant>,
}

struct Session {
    /// The settings that it was opened with.
    opened_with: Source,
    used: Instant,
    session: SqlSession,
}

/// Why there is no answer.
struct Unanswered {
    /// Nobody else would get one either.
    is_broken: bool,
    why: String,
}

impl Unanswered {
    fn broken(why: impl ToString) -> Self {
        Self { is_broken: true, why: why.to_string() }
    }

    fn of(cause: Cause) -> Self {
        let is_broken = !matches!(cause, Cause::Server { .. } | Cause::Refused(_));
        Self { is_broken, why: Failure { target: None, cause }.to_string() }
    }
}

/// Whom to ask, and how.
#[derive(Clone, PartialEq, Eq)]
struct Source {
    conninfo: String,
    user: String,
    database: String,
}

impl Learner {
    /// Nothing was asked yet.
    #[must_use]
    pub fn new(
        store: Arc<RoleStore>,
        hub: Arc<dyn Hub<OwnedFd>>,
        settings: watch::Receiver<Arc<Settings>>,
    ) -> Arc<Self> {
        let (asking, reading) = (Arc::default(), Mutex::default());
        Arc::new(Self { store, hub, settings, asking, reading })
    }

    /// The roles of this server, what was learnt among them.
    pub(super) fn store(&self) -> &RoleStore {
        &self.store
    }

    /// The role of that name, as who keeps it has it now.
    pub async fn role(&self, name: &str) -> Option<Arc<Role>> {
        let known = || self.store.current().get(name).cloned();
        match known() {
            Some(role) if role.keeper != Keeper::Upstream => Some(role),
            _ => {
                if let Some(source) = self.source() {
                    self.ask(&source, name).await;
                }
                known()
            }
        }
    }

    /// Reads the file of `auth_file`, as it is now. An earlier one's users go when they are not in it.
    ///
    /// Of a password in plain text the secret is kept.
    pub async fn read_file(&self) {
        // Of two reloads the later one has the last word.
        let _alone = self.reading.lock().await;
        let path = self.settings.borrow().auth_file.clone();
        let iterations = self.settings.borrow().scram_iterations;
        let known = self.store.current();
        let users = match self.users_of_file().await {
            Ok(users) => users,
            Err(reason) => {
                let detail = "Users who were read before stay.";
                tracing::error!(detail, "could not read file \"{path}\" of auth_file: {reason}");
                return;
            }
        };
        let users = spawn_blocking(move || {
            let secret = |(name, text): (String, Zeroizing<String>)| {
                let secret = secret_of(known.get(&name), &name, &text, iterations);
                (name, secret)
            };
            users.into_iter().map(secret).collect::<BTreeMap<_, _>>()
        });
        let Ok(users) = users.await else { return };
        let update = self.store.update(|roles| {
            let mut roles = roles.clone();
            let gone: Vec<String> = roles
                .iter()
                .filter(|role| role.keeper == Keeper::AuthFile && !users.contains_key(&role.name))
                .map(|role| role.name.clone())
                .collect();
            for name in gone {
                roles = roles.forget(&name, Keeper::AuthFile);
            }
            for (name, password) in users {
                // PgBouncer's users are who may log in; here they come to replicate.
                let (login, replication) = (true, true);
                let role = Role { login, replication, password, ..Role::new(0, name.clone()) };
                match roles.learn(&role, &[], Keeper::AuthFile) {
                    Ok(learnt) => roles = learnt,
                    Err(why) => not_learnt(&name, why),
                }
            }
            roles
        });
        if let Err(report) = update.await {
            tracing::error!("{}", report.message);
        }
    }

    /// Who is in the file of `auth_file`; nobody without one.
    async fn users_of_file(&self) -> Result<BTreeMap<String, Zeroizing<String>>, String> {
        let path = self.settings.borrow().auth_file.clone();
        if path.is_empty() {
            return Ok(BTreeMap::new());
        }
        let text = spawn_blocking(move || files::read(Path::new(&path)).map(Zeroizing::new)).await;
        let text = text.map_err(|_| "it was given up".to_owned())?;
        let text = text.map_err(|error| strerror(&error))?;
        let text = std::str::from_utf8(&text).map_err(|_| "it is not UTF-8".to_owned())?;
        let users =
            userlist::parse(text).map_err(|bad| format!("line {}: {}", bad.number, bad.reason))?;
        Ok(users.into_iter().map(|(name, secret)| (name, Zeroizing::new(secret))).collect())
    }

    /// Whom to ask; `None` without `auth_user`, and on a server that has no upstream.
    fn source(&self) -> Option<Source> {
        let settings = self.settings.borrow();
        let may_ask = !settings.auth_user.is_empty()
            && !settings.hub.primary_conninfo.is_empty()
            && self.hub.in_recovery();
        may_ask.then(|| Source {
            conninfo: settings.hub.primary_conninfo.clone(),
            user: settings.auth_user.clone(),
            database: settings.auth_dbname.clone(),
        })
    }

    /// Asks the upstream and keeps what it says; whatever fails is logged.
    async fn ask(&self, source: &Source, name: &str) {
        let deadline = Instant::now() + ASK_TIMEOUT;
        // Whoever asks before this one learns why nobody can.
        let Ok(mut asking) = timeout_at(deadline, self.asking.lock()).await else { return };
        let now = Instant::now();
        asking.asked.retain(|_, asked| now < *asked + FRESH);
        if asking.asked.contains_key(name) || asking.not_before.is_some_and(|until| now < until) {
            return;
        }
        let found = timeout_at(deadline, self.find(&mut asking, source, name)).await;
        let found = found.unwrap_or_else(|_| Err(Unanswered::broken("timeout expired")));
        match found {
            // Who comes next finds it among the roles: it is kept before anybody else can ask.
            Ok(found) => self.keep(name, found).await,
            Err(Unanswered { is_broken, why }) => {
                asking.not_before = is_broken.then(|| Instant::now() + RETRY_INTERVAL);
                let detail = "Roles that were learnt before can log in.";
                tracing::warn!(
                    detail,
                    "could not ask the upstream server for role \"{name}\": {why}"
                );
            }
        }
        if asking.asked.len() < ASKED_MAX {
            asking.asked.insert(name.to_owned(), Instant::now());
        }
    }

    /// Asks over the session that there is, or over a new one, which is kept for a while.
    async fn find(
        &self,
        asking: &mut Asking,
        source: &Source,
        name: &str,
    ) -> Result<Option<RemoteRole>, Unanswered> {
        let auth_query = self.settings.borrow().auth_query.clone();
        let kept = asking.session.take().filter(|session| session.opened_with == *source);
        let was_kept = kept.is_some();
        let mut opened = match kept {
            Some(opened) => opened,
            None => self.open(source).await?,
        };
        let mut found = find_role(&mut opened.session, &auth_query, name).await;
        if was_kept && matches!(found, Err(Cause::Closed | Cause::Io(_))) {
            // It may have ended since; a new one tells what is wrong.
            opened = self.open(source).await?;
            found = find_role(&mut opened.session, &auth_query, name).await;
        }
        opened.used = Instant::now();
        // What a server says of a statement is about this role, and the session goes on.
        if matches!(found, Ok(_) | Err(Cause::Server { .. })) {
            asking.session = Some(opened);
            self.close_when_idle();
        }
        found.map_err(Unanswered::of)
    }

    /// A session that nobody needs would keep the upstream from a smart shutdown.
    fn close_when_idle(&self) {
        let asking = Arc::clone(&self.asking);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(IDLE_MAX).await;
            let mut asking = asking.lock().await;
            if asking.session.as_ref().is_some_and(|it| it.used.elapsed() >= IDLE_MAX) {
                asking.session = None;
            }
        });
    }

    async fn open(&self, source: &Source) -> Result<Session, Unanswered> {
        let conninfo = parse_conninfo(&source.conninfo).map_err(Unanswered::broken)?;
        let conninfo = self.as_auth_user(conninfo, &source.user).await;
        let options = ConnectOptions { timeout: Some(ASK_TIMEOUT), ..ConnectOptions::default() };
        let session = connect_sql(&conninfo, &source.database, &options).await;
        let mut session = session.map_err(Unanswered::broken)?;
        self.check_identity(&mut session).await?;
        Ok(Session { opened_with: source.clone(), used: Instant::now(), session })
    }

    /// Roles of another database system are not this one's. A server that cannot say which it is, as another walhub, is
    /// believed. PostgreSQL: `WalReceiverMain`.
    async fn check_identity(&self, session: &mut SqlSession) -> Result<(), Unanswered> {
        let Some(identity) = self.hub.identity() else { return Ok(()) };
        let rows = match session.query(SYSTEM_IDENTIFIER, &[]).await {
            Err(Cause::Server { .. }) => return Ok(()),
            rows => rows.map_err(Unanswered::of)?,
        };
        let ours = identity.system_identifier.to_string();
        match rows.first().and_then(|row| row.first()) {
            Some((_, Some(theirs))) if *theirs == ours => Ok(()),
            other => {
                let theirs = other.and_then(|(_, theirs)| theirs.as_deref()).unwrap_or("unknown");
                Err(Unanswered::broken(format!(
                    "database system identifier differs between the upstream ({theirs}) and this server ({ours})"
                )))
            }
        }
    }

    /// The upstream's address with another user. Its password is that of `primary_conninfo` where that is the same user,
    /// else a plain one of `auth_file`, else that of the password file.
    async fn as_auth_user(&self, mut conninfo: ConnInfo, user: &str) -> ConnInfo {
        if conninfo.user != user {
            user.clone_into(&mut conninfo.user);
            let of_file = self.users_of_file().await.ok().and_then(|mut users| users.remove(user));
            let plain = of_file.filter(|text| matches!(Secret::parse(text), Secret::Plain(_)));
            conninfo.password = plain.map(|text| String::clone(&text));
        }
        conninfo
    }

    /// Keeps what the upstream has said of a role.
    async fn keep(&self, name: &str, found: Option<RemoteRole>) {
        let update = self.store.update(|roles| match &found {
            None => roles.forget(name, Keeper::Upstream),
            Some(found) => {
                let learnt = roles.learn(&attributes(found), &found.member_of, Keeper::Upstream);
                learnt.unwrap_or_else(|why| {
                    not_learnt(name, why);
                    roles.clone()
                })
            }
        });
        if let Err(report) = update.await {
            tracing::error!("{}", report.message);
        }
    }
}

/// The secret of a user of the file; that which is kept already when it is of the same password.
fn secret_of(known: Option<&Arc<Role>>, name: &str, text: &str, iterations: u32) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    if !matches!(Secret::parse(text), Secret::Plain(_)) {
        return Some(text.to_owned());
    }
    let kept = known.filter(|role| role.keeper == Keeper::AuthFile);
    let kept = kept.and_then(|role| role.password.as_ref());
    if let Some(kept) = kept.filter(|kept| Secret::parse(kept).verify(name, text.as_bytes())) {
        return Some(kept.clone());
    }
    let iterations = NonZeroU32::new(iterations).unwrap_or(SCRAM_ITERATIONS_DEFAULT);
    let encryption = Encryption::ScramSha256 { iterations };
    let salt: [u8; SCRAM_SALT_LEN] = random::bytes();
    Some(String::clone(&password::encrypt(encryption, name, text, &salt)))
}

/// A role of `pg_roles`. An attribute that a server does not have is one that the role does not have.
pub(crate) fn attributes(found: &RemoteRole) -> Role {
    let valid_until = found.attribute("rolvaliduntil").and_then(timestamp);
    Role {
        superuser: found.flag("rolsuper"),
        inherit: found.flag("rolinherit"),
        create_role: found.flag("rolcreaterole"),
        create_db: found.flag("rolcreatedb"),
        login: found.flag("rolcanlogin"),
        replication: found.flag("rolreplication"),
        bypass_rls: found.flag("rolbypassrls"),
        connection_limit: found
            .attribute("rolconnlimit")
            .and_then(|limit| limit.parse().ok())
            .unwrap_or(-1),
        password: found.secret.clone(),
        valid_until,
        ..Role::new(0, found.name.clone())
    }
}

/// A time as `DateStyle` ISO writes it. One that cannot be read is long past: better nobody than anybody.
fn timestamp(text: &str) -> Option<Timestamp> {
    match Value::parse(text, Type::TimestampTz, &TimeZone::UTC) {
        Ok(Value::Timestamp(time)) => Some(time),
        _ => Some(Timestamp(i64::MIN + 1)),
    }
}

fn not_learnt(name: &str, why: NotLearnt) {
    let reason = match why {
        // It is here, and is used.
        NotLearnt::KeptElsewhere => return,
        NotLearnt::Reserved => "its name is reserved",
        NotLearnt::TooMany => "there are too many roles",
    };
    tracing::warn!("role \"{name}\" is not learnt: {reason}");
}
